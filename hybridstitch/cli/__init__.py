"""The commands of `hybridstitch`, one file each, and what their options share."""
