"""The forms in which clients write requests and read answers: one file each, `choice` chooses among them."""
