"""The books: what is locked, written, read and proved. Takes a connection, never commits."""
