"""Task plugins that ship with SRRL; each sub-package is one task."""
