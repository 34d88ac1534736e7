"""The stream process: from decided events to panes, at most 200 ms behind the log."""
