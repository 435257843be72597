"""`mobilesam segment` for many images: which, their overlapping, their files. Imports `api` and what lies below."""
