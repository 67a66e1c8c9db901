"""HTTP on a connection, below the application: uvicorn's protocol with bounds on what a client may send, wait and hold.

`transport` sends an answer as one piece, `connection` reads requests, `clients` watches all connections of a worker.

All use of uvicorn's protocol classes is here. They are not its public interface, so uvicorn is capped to one minor
version. To do without: serve with `http="httptools"` behind a proxy that bounds heads, times clients out, buffers
answers and removes `Upgrade` (nginx does all four); an answer then costs two packets.
"""
