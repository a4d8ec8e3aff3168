"""What ``stedfast train`` and ``stedfast denoise`` do with files: read them, learn, judge, draw."""
