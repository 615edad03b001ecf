"""What clients and servers exchange: the fields of a request, its body, and the documents that answer it."""
