"""What is known of each detector before it is built: its settings, its help text, what it needs."""
