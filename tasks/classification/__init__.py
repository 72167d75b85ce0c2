"""Image classification: data sets in memory and on disk, the field's small networks, metrics and the task plugin."""
