"""Where files, ranks and mathematics meet: read my share, compute, reduce, write."""
