"""What the server remembers: rows in a database, file contents in a folder or object store."""
