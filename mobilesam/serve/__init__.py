"""`mobilesam serve`: a page to click in, and the HTTP API behind the page. Needs the extra `serve`.

`app.create_app` makes the ASGI application, and `server.create` makes the uvicorn server that runs it. Importing these
modules imports FastAPI and uvicorn. Imports only `api` and the layers below it.
"""
