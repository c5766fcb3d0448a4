"""The app: `main.py` builds and launches it, `pages/` holds one file per page."""
