"""Write shards exactly once on workers that may fail: plan -> schedule -> workers -> watch."""
