"""What people prefer, asked on a page of this machine."""
