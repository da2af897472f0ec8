"""A prepared dataset on disk; everything after preparation sees only stores."""
