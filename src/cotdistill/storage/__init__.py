"""Storage: files that survive a kill, a full disk and a second process."""
