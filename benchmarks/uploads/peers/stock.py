"""tuspyserver as it comes: its router in a FastAPI application on uvicorn.

stock.py FOLDER PORT
"""

import sys

import uvicorn
from fastapi import FastAPI
from tuspyserver import create_tus_router


def main() -> None:
    app = FastAPI()
    app.include_router(create_tus_router(prefix="files", files_dir=sys.argv[1]))
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")


if __name__ == "__main__":
    main()
