"""The technologies behind the port."""
