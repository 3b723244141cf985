"""Starlette's own FileResponse under uvicorn, both as they come: ``file_response.py FILE PORT``."""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route


def main() -> None:
    path, port = sys.argv[1], int(sys.argv[2])

    async def give(_request: Request) -> FileResponse:
        return FileResponse(path)

    app = Starlette(routes=[Route("/file", give)])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
