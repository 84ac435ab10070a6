"""How a shard is stored: tar or LMDB files, written atomically, read by memory map."""
