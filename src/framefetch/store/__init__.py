"""What is held on disk: part files, the manifest, and whether one tells the truth about the other."""
