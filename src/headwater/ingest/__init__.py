"""PROCESS: HTTP -> event log. Start reading at `app.py`: the steps of a request, in order."""
