"""A new domain without labels: any task's student taught by its teacher on pictures of where it will work."""
