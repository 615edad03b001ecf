"""The client of a server, over HTTP or gRPC. Nothing here imports torch."""
