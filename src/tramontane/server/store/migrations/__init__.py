"""The history of the tables. `env.py` runs it on a connection that Database hands over."""
