"""One run before torch: its settings, name, directory, lock and state."""
