"""The application, put together: routes, what surrounds every request, errors, the page, the description."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import Depends, FastAPI

from api import openapi, pages, problems
from api.asked import acceptable, only_known_parameters
from api.counting import CountRequests
from api.middleware import AnswerCache, RequestId
from api.routers import domains, forecasts, observations, points, system, verification
from api.service import Service
from nowcast.settings import Settings, load_settings
from nowcast.telemetry import Telemetry, configure_logging


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application; without ``settings`` those of the environment (for ``uvicorn --factory``).

    Raises:
        SettingsError: If the environment's settings are wrong.
    """
    if settings is None:  # uvicorn has set up its own log lines by now; all lines have one form
        settings = load_settings()
        configure_logging(settings.log_level, "api", log_format=settings.log_format)
    service = Service(settings, Telemetry())
    service.telemetry.watch_disk(settings.data_dir)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(
        title="nowcast",
        version=_version(),
        summary="Precipitation nowcasting from radar: the next hours, each forecast with its own record.",
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # the page of pages.py works without the internet, Swagger UI's does not
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    asked = [Depends(only_known_parameters), Depends(acceptable)]
    for module in (domains, observations, forecasts, points, verification, system):
        app.include_router(module.router, dependencies=asked)
    # Links to pages carry what parameters they like.
    app.include_router(pages.router, dependencies=[Depends(acceptable)])
    problems.install(app)
    openapi.install(app, dependencies=asked)
    app.add_middleware(
        AnswerCache,
        capacity_bytes=service.settings.cache_bytes // 4,
        requests=service.telemetry.cache_requests,
    )
    app.add_middleware(RequestId)
    telemetry = service.telemetry  # what is added last is outermost
    app.add_middleware(CountRequests, requests=telemetry.http_requests, seconds=telemetry.http_seconds)
    return app


def _version() -> str:
    try:
        return version("nowcast-service")
    except PackageNotFoundError:  # run from a folder without being installed
        return "0"
