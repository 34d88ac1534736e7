"""The warehouse: metrics computed over relations of events, and the settled rollups that are kept of them."""
