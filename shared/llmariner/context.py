"""The one place where adapters are chosen: what a function asks for is made when it first asks, from the environment.

Imports stand inside the properties on purpose: a function pays only for what its route uses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from llmariner.settings import (
    BrokerSettings,
    ClusterSettings,
    ControlPlaneSettings,
    DatabaseSettings,
    Environment,
    GatewaySettings,
    IdentitySettings,
    KServeSettings,
    ModelSettings,
    SecretSettings,
    ServingSettings,
    environment,
)

if TYPE_CHECKING:
    from llmariner.control_plane import InProcessControl
    from llmariner.gateway.authentication.failed_attempts import ThrottledLookups
    from llmariner.gateway.control_plane.http_client import RemoteControl
    from llmariner.gateway.control_plane.port import Control
    from llmariner.gateway.state import Gateway
    from llmariner.limits.budgets import Budgets
    from llmariner.limits.leases import Leases
    from llmariner.limits.rules import Limits
    from llmariner.models.registry import ModelRegistry
    from llmariner.models.weights import WeightFetcher
    from llmariner.platform.database import Database
    from llmariner.platform.events.broker import Publisher
    from llmariner.platform.events.deliveries import Deliveries
    from llmariner.platform.serving import Serving
    from llmariner.platform.serving.waiting_requests import WaitingRequests
    from llmariner.tenancy.authenticator import Authenticator
    from llmariner.tenancy.keys.store import Keys
    from llmariner.tenancy.sign_in.token_sign_in import TokenSignIn
    from llmariner.usage.batch_writer import BatchWriter
    from llmariner.usage.ledger import Ledger
    from llmariner.usage.prices import Prices

__all__ = ["Context"]

Part = TypeVar("Part")
_making = threading.RLock()


class _part(Generic[Part]):  # noqa: N801 - used as a decorator, as functools.cached_property is
    """A part that is made once, even where threads ask for it at the same time (functools' own has no lock)."""

    def __init__(self, make: Callable[[Context], Part]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, context: None, owner: Any = None) -> _part[Part]: ...
    @overload
    def __get__(self, context: Context, owner: Any = None) -> Part: ...
    def __get__(self, context: Context | None, owner: Any = None) -> _part[Part] | Part:
        if context is None:
            return self
        with _making:
            if self._name not in context.__dict__:
                context.__dict__[self._name] = self._make(context)
        made: Part = context.__dict__[self._name]
        return made


class Context:
    """The parts of one process. The local home makes one for all its functions and sets what it has itself."""

    def __init__(self, env: Environment | None = None) -> None:
        self.env = environment() if env is None else env

    def check_settings(self) -> None:
        """Whether what every function with a database needs is there. ValueError says which variable is wrong.

        Asked when such a function is built: a wrong setting ends its start and not its first request.
        """
        DatabaseSettings.load(self.env)
        BrokerSettings.load(self.env)
        IdentitySettings.load(self.env)
        ModelSettings.load(self.env)
        assert self.secrets

    @_part
    def secrets(self) -> SecretSettings:
        """Pepper and service secret."""
        return SecretSettings.load(self.env)

    @_part
    def database(self) -> Database:
        """The database of `LLMARINER_DATABASE_URL`."""
        from llmariner.platform.database import Database

        return Database(DatabaseSettings.load(self.env))

    @_part
    def keys(self) -> Keys:
        """API keys."""
        from llmariner.tenancy.keys.store import Keys

        return Keys(self.database, self.secrets.pepper)

    @_part
    def authenticator(self) -> Authenticator:
        """Who calls, by key or by sign-in."""
        from llmariner.tenancy.authenticator import Authenticator

        return Authenticator(self.database, self.secrets.pepper)

    @_part
    def secret_lookups(self) -> ThrottledLookups:
        """The bound on keys and tokens that are looked up in vain."""
        from llmariner.gateway.authentication.failed_attempts import ThrottledLookups

        return ThrottledLookups(GatewaySettings.load(self.env).unknown_keys_per_minute)

    @_part
    def identity(self) -> TokenSignIn | None:
        """People who sign in through the issuer of `LLMARINER_OIDC_ISSUER`; None where there is none."""
        settings = IdentitySettings.load(self.env)
        if not settings.issuer:
            return None
        from llmariner.platform.identity.oidc import OidcTokenVerifier
        from llmariner.tenancy.sign_in.token_sign_in import TokenSignIn

        return TokenSignIn(
            self.database, OidcTokenVerifier(settings), self.authenticator, default_role=settings.default_role
        )

    @_part
    def limits(self) -> Limits:
        """Limits on requests, tokens and places."""
        from llmariner.limits.rules import Limits

        return Limits(self.database)

    @_part
    def budgets(self) -> Budgets:
        """Budgets of money."""
        from llmariner.limits.budgets import Budgets

        return Budgets(self.database)

    @_part
    def leases(self) -> Leases:
        """What gateways take slices of."""
        from llmariner.limits.leases import Leases

        return Leases(self.database, GatewaySettings.load(self.env).default_limit)

    @_part
    def prices(self) -> Prices:
        """The price list."""
        from llmariner.usage.prices import Prices

        return Prices(self.database)

    @_part
    def registry(self) -> ModelRegistry:
        """Models."""
        from llmariner.models.registry import ModelRegistry

        return ModelRegistry(self.database, ModelSettings.load(self.env).locations)

    @_part
    def ledger(self) -> Ledger:
        """Usage."""
        from llmariner.usage.ledger import Ledger

        return Ledger(self.database)

    @_part
    def batch_writer(self) -> BatchWriter:
        """Where other processes' events are gathered for the ledger."""
        from llmariner.usage.batch_writer import BatchWriter

        return BatchWriter(self.ledger.record)

    @_part
    def deliveries(self) -> Deliveries:
        """Deliveries of events; subscribers matter only to who delivers, the local home's dispatcher."""
        from llmariner.platform.events.deliveries import Deliveries

        return Deliveries(self.database, ())

    @_part
    def publisher(self) -> Publisher | None:
        """Carries events to the Broker of `LLMARINER_BROKER_URL`; None where there is none."""
        settings = BrokerSettings.load(self.env)
        if not settings.url:
            return None
        from llmariner.platform.events.broker import Publisher

        return Publisher(self.database, settings)

    @_part
    def weights(self) -> WeightFetcher:
        """How weights are brought; the local home sets its own."""
        from llmariner.models.weights import StorageUriFetcher

        return StorageUriFetcher()

    @_part
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
        if settings.adapter == "kserve":
            from llmariner.models.serving_lookup import RegistryModelLookup
            from llmariner.platform.kube import Cluster
            from llmariner.platform.serving.kserve.adapter import KServeServing

            cluster = Cluster(ClusterSettings.load(self.env))
            directory = RegistryModelLookup(self.registry, self.ledger, self.batch_writer.pending_models)
            return KServeServing(cluster, KServeSettings.load(self.env), directory)
        from llmariner.platform.serving.remote import RemoteServing

        return RemoteServing(self.remote_control)

    @_part
    def waiting_requests(self) -> WaitingRequests:
        """What gateways say of their waiting rooms to this process."""
        from llmariner.platform.serving.waiting_requests import WaitingRequests

        return WaitingRequests()

    @_part
    def remote_control(self) -> RemoteControl:
        """The control function at `LLMARINER_CONTROL_URL`."""
        from llmariner.gateway.control_plane.http_client import RemoteControl

        return RemoteControl(ControlPlaneSettings.load(self.env), self.secrets.service, issuer="function")

    @_part
    def in_process_control(self) -> InProcessControl:
        """The control port on this process's own database and serving port."""
        from llmariner.control_plane import InProcessControl
        from llmariner.limits.restrictions import project_restriction
        from llmariner.limits.revisions import Revisions

        return InProcessControl(
            keys=self.keys,
            authenticator=self.authenticator,
            people=lambda: self.identity,
            restriction=partial(project_restriction, self.database),
            leases=self.leases,
            revisions=Revisions(self.database),
            prices=self.prices,
            registry=self.registry,
            serving=self.serving,
            waiting_requests=self.waiting_requests,
            ledger=self.ledger,
        )

    @_part
    def control(self) -> Control:
        """What the token path asks: over HTTP where a control function is named, else in this process."""
        return self.remote_control if self.env.get("LLMARINER_CONTROL_URL") else self.in_process_control

    @_part
    def gateway(self) -> Gateway:
        """The token path's state."""
        from llmariner.gateway.state import Gateway

        return Gateway(self.control, GatewaySettings.load(self.env), self.secrets.pepper)
