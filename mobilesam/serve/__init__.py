"""`mobilesam serve`: a web page to segment photos by clicking, and its HTTP API. Needs the extra `serve`.

`app.create_app` makes the ASGI application, and `server.create` makes the uvicorn server that runs it. Importing these
modules imports FastAPI and uvicorn. Imports only `api` and the layers below it.
"""
