"""The app: teacher and student of a run side by side in the browser. Installed, it is imported as ``srrl_app``."""
