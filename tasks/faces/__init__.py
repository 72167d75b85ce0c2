"""Face landmarks: data, models, metrics and the task plugin."""
