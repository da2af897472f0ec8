"""A prepared dataset on disk. After preparation, only stores are read."""
