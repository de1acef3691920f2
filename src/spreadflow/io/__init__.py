"""Files in, files out. Foreign frames and units are converted here and only here."""
