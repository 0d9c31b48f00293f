"""The one place where adapters are chosen: what a function asks for is made when it first asks, from the environment.

Imports stand inside the properties on purpose: a function pays only for what its route uses.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from llmariner.settings import (
    ControlSettings,
    DatabaseSettings,
    Environment,
    GatewaySettings,
    SecretSettings,
    ServingSettings,
    environment,
)

if TYPE_CHECKING:
    from llmariner.control import InProcessControl
    from llmariner.gateway.control import Control
    from llmariner.gateway.gateway import Gateway
    from llmariner.gateway.remote_control import RemoteControl
    from llmariner.models.registry import Registry
    from llmariner.models.weights import Weights
    from llmariner.platform.database import Database
    from llmariner.platform.events.deliveries import Deliveries
    from llmariner.platform.serving import Serving
    from llmariner.tenancy.keys import Keys
    from llmariner.usage.ledger import Ledger

__all__ = ["Context"]


class Context:
    """The parts of one process. The local home makes one for all its functions and sets what it has itself."""

    def __init__(self, env: Environment | None = None) -> None:
        self.env = environment() if env is None else env

    @cached_property
    def secrets(self) -> SecretSettings:
        """Pepper and service secret."""
        return SecretSettings.load(self.env)

    @cached_property
    def database(self) -> Database:
        """The database of `LLMARINER_DATABASE_URL`."""
        from llmariner.platform.database import Database

        return Database(DatabaseSettings.load(self.env))

    @cached_property
    def keys(self) -> Keys:
        """API keys."""
        from llmariner.tenancy.keys import Keys

        return Keys(self.database, self.secrets.pepper)

    @cached_property
    def registry(self) -> Registry:
        """Models."""
        from llmariner.models.registry import Registry

        return Registry(self.database)

    @cached_property
    def ledger(self) -> Ledger:
        """Usage."""
        from llmariner.usage.ledger import Ledger

        return Ledger(self.database)

    @cached_property
    def deliveries(self) -> Deliveries:
        """Deliveries of events; subscribers matter only to who delivers, the local home's dispatcher."""
        from llmariner.platform.events.deliveries import Deliveries

        return Deliveries(self.database, ())

    @cached_property
    def weights(self) -> Weights:
        """How weights are brought; the local home sets its own."""
        from llmariner.models.weights import StorageUriWeights

        return StorageUriWeights()

    @cached_property
    def serving(self) -> Serving:
        """Models awake and asleep, by `LLMARINER_SERVING`. `processes` is set by the local home."""
        settings = ServingSettings.load(self.env)
        if settings.adapter == "static":
            from llmariner.platform.serving.static import StaticServing

            return StaticServing(settings.static)
        if settings.adapter == "processes":
            raise ValueError(
                "LLMARINER_SERVING=processes is for `llma up`; a function on its own uses remote or static."
            )
        from llmariner.platform.serving.remote import RemoteServing

        return RemoteServing(self.remote_control)

    @cached_property
    def remote_control(self) -> RemoteControl:
        """The control function at `LLMARINER_CONTROL_URL`."""
        from llmariner.gateway.remote_control import RemoteControl

        return RemoteControl(ControlSettings.load(self.env), self.secrets.service, issuer="function")

    @cached_property
    def in_process_control(self) -> InProcessControl:
        """The control port on this process's own database and serving port."""
        from llmariner.control import InProcessControl

        return InProcessControl(self.keys, self.registry, self.serving, self.ledger)

    @cached_property
    def control(self) -> Control:
        """What the token path asks: over HTTP where a control function is named, else in this process."""
        return self.remote_control if self.env.get("LLMARINER_CONTROL_URL") else self.in_process_control

    @cached_property
    def gateway(self) -> Gateway:
        """The token path's state."""
        from llmariner.gateway.gateway import Gateway

        return Gateway(self.control, GatewaySettings.load(self.env), self.secrets.pepper)
