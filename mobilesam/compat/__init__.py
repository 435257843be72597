"""The reference's classes and names, for scripts written for it. Imports `api` and what lies below."""
