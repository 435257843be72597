"""`mobilesam serve`: a page to click in and the HTTP API behind it, with FastAPI (the extra `serve`).

`app.create_app(model)` is the ASGI application, `server.serve(...)` runs it. FastAPI and uvicorn load with these.
Imports `api` and the layers below it.
"""
