"""Storage of shards: tar or LMDB files, written atomically, read by memory map."""
