"""The process that answers: question -> plan -> answer, look-ups, SQL, and the management API."""
