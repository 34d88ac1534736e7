"""PROCESS: lake -> warehouse. Start reading at `process.py`: what is due, and in which order."""
