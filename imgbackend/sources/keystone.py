"""How Glance is reached: options, credentials, endpoint.  The only importer of keystoneauth1.

The options are those of Nova's ``[glance]``, with keystoneauth's names.  They are
written down here, so that they can be registered without importing it; what other
plugins than ``password`` want is registered when such a plugin is loaded.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oslo_config import cfg, types

from imgbackend.errors import ConfigError, Error, SourceDenied, SourceUnavailable
from imgbackend.sources import clouds_yaml
from imgbackend.sources.retry import Interrupted, reason

if TYPE_CHECKING:
    from keystoneauth1.adapter import Adapter
    from keystoneauth1.session import Session

GROUP = "glance"
TIMEOUT = 60.0
"""Seconds that Glance may be silent, where nothing else is configured."""

_POOL = re.compile(r": HTTPS?ConnectionPool\(.*")
_VERSION = re.compile(r"/v\d+(\.\d+)?/*\Z")


def _formerly(*names: str) -> list[cfg.DeprecatedOpt]:
    return [cfg.DeprecatedOpt(name) for name in names]


AUTH_OPTS: Sequence[cfg.Opt] = (
    cfg.StrOpt("auth_type", deprecated_opts=_formerly("auth_plugin"), help="keystoneauth's plugin: password, none..."),
    cfg.StrOpt("auth_url", help="URL of Keystone."),
    cfg.StrOpt("username", deprecated_opts=_formerly("user_name"), help="Name of the user."),
    cfg.StrOpt("user_id", help="Id of the user."),
    cfg.StrOpt("password", secret=True, help="Password of the user."),
    cfg.StrOpt("user_domain_name", help="Name of the user's domain."),
    cfg.StrOpt("user_domain_id", help="Id of the user's domain."),
    cfg.StrOpt("project_name", deprecated_opts=_formerly("tenant_name"), help="Name of the project."),
    cfg.StrOpt("project_id", deprecated_opts=_formerly("tenant_id"), help="Id of the project."),
    cfg.StrOpt("project_domain_name", help="Name of the project's domain."),
    cfg.StrOpt("project_domain_id", help="Id of the project's domain."),
    cfg.StrOpt("domain_name", help="Name of the domain to work in, instead of a project."),
    cfg.StrOpt("domain_id", help="Id of the domain to work in, instead of a project."),
    cfg.StrOpt("default_domain_name", help="Name of the domain of user and project, where none is told."),
    cfg.StrOpt("default_domain_id", help="Id of the domain of user and project, where none is told."),
    cfg.StrOpt("system_scope", help="Scope for system operations: all."),
    cfg.StrOpt("trust_id", help="Id of the trust to work by."),
)

OPTS: Sequence[cfg.Opt] = (
    cfg.StrOpt("cloud", help="The entry of clouds.yaml that tells how Glance is reached, instead of this section."),
    *AUTH_OPTS,
    cfg.StrOpt("auth_section", help="The section that the credentials are in, where it is not this one."),
    cfg.StrOpt("cafile", help="PEM file of the CAs that Keystone and Glance are checked against."),
    cfg.StrOpt("certfile", help="PEM file of the client's certificate."),
    cfg.StrOpt("keyfile", help="PEM file of the client's key."),
    cfg.BoolOpt("insecure", default=False, help="Do not check the servers' certificates."),
    cfg.Opt(
        "timeout",
        type=types.Float(min=0.1),
        help="Seconds that Keystone or Glance may be silent, when asked or while an image comes in. None: 60.",
    ),
    cfg.StrOpt("service_type", default="image", help="Type of the service in Keystone's catalogue."),
    cfg.StrOpt("service_name", help="Name of the service in Keystone's catalogue."),
    cfg.ListOpt("valid_interfaces", default=["internal", "public"], help="Kinds of endpoint, the preferred one first."),
    cfg.StrOpt("region_name", help="The region whose endpoint is used."),
    cfg.StrOpt("endpoint_override", help="URL of Glance; Keystone's catalogue is not looked at."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeystoneAccess:
    """A way to Glance."""

    session: "Session"
    endpoint: str
    """URL, without a version."""
    timeout: float

    def close(self) -> None:
        """Let go of the connections; the session may be used again."""
        self.session.session.close()

    def adapter(self) -> "Adapter":
        """For requests that glanceclient cannot make."""
        from keystoneauth1.adapter import Adapter

        return Adapter(self.session, service_type="image", endpoint_override=self.endpoint, user_agent="imgbackend")


def connect(conf: Any) -> KeystoneAccess:
    """The operator's own way, of ``[glance]``; Keystone is asked for the endpoint.

    :raises ConfigError: if something is missing in the configuration.
    :raises keystoneauth1.exceptions.ClientException: see :func:`meaning`.
    """
    options = conf[GROUP]
    if options.cloud:
        return _by_cloud(clouds_yaml.read(options.cloud), options)
    session = _session(
        _plugin(conf, options.auth_section or GROUP),
        verify=False if options.insecure else options.cafile or True,
        cert=(options.certfile, options.keyfile) if options.certfile and options.keyfile else options.certfile,
        timeout=options.timeout,
    )
    return given(session, conf)


def given(session: "Session", conf: Any) -> KeystoneAccess:
    """A caller's session, to the endpoint that ``[glance]`` and the catalogue tell.

    :raises ConfigError: if there is no endpoint.
    """
    options = conf[GROUP]
    found = options.endpoint_override or session.get_endpoint(
        service_type=options.service_type,
        service_name=options.service_name,
        interface=options.valid_interfaces,
        region_name=options.region_name,
    )
    kinds = "/".join(options.valid_interfaces)
    where = f"service {options.service_type}, region {options.region_name or 'any'}, {kinds}"
    return KeystoneAccess(session=session, endpoint=_checked(found, where), timeout=options.timeout or TIMEOUT)


def _by_cloud(cloud: clouds_yaml.Cloud, options: Any) -> KeystoneAccess:
    from keystoneauth1 import loading

    loader: Any = loading.get_plugin_loader("none" if cloud.auth_type in ("None", "noauth") else cloud.auth_type)
    names = {name for opt in loader.get_options() for name in (opt.dest, *(old.dest for old in opt.deprecated))}
    plugin = loader.load_from_options_getter(_getter({k: v for k, v in cloud.auth.items() if k in names}))
    session = _session(
        plugin,
        verify=(cloud.cacert or True) if cloud.verify else False,
        cert=(cloud.cert, cloud.key) if cloud.cert and cloud.key else cloud.cert,
        timeout=options.timeout,
    )
    found = cloud.endpoint or session.get_endpoint(
        service_type="image", interface=list(cloud.interfaces), region_name=cloud.region_name
    )
    where = f"cloud {cloud.name}, region {cloud.region_name or 'any'}, {'/'.join(cloud.interfaces)}"
    return KeystoneAccess(session=session, endpoint=_checked(found, where), timeout=options.timeout or TIMEOUT)


def _getter(told: dict[str, Any]) -> Any:
    def get(opt: Any) -> Any:
        names = (opt.dest, *(old.dest for old in opt.deprecated))
        return next((told[name] for name in names if name in told), None)

    return get


def _session(plugin: Any, *, verify: str | bool, cert: Any, timeout: float | None) -> "Session":
    from keystoneauth1.session import Session

    for file in (verify, *(cert if isinstance(cert, tuple) else (cert,))):
        if isinstance(file, str) and not os.path.exists(file):
            raise ConfigError(f"there is no {file!r}, which the configuration of Glance names for TLS")
    return Session(auth=plugin, verify=verify, cert=cert, timeout=timeout or TIMEOUT)


def further_opts(conf: Any) -> dict[str, list[Any]]:
    """What the plugin that ``[glance]`` names reads, by section; as far as it is known which that is."""
    from keystoneauth1.exceptions import AuthPluginException

    section, options = conf[GROUP].auth_section or GROUP, conf[GROUP]
    if options.cloud:
        return {}
    conf.register_opts(AUTH_OPTS, group=section)
    name = _plugin_name(conf, section)
    try:
        more = _opts_of(name) if name is not None else []
    except AuthPluginException:
        more = []  # there is none of this name, as the first who needs it is told
    return {section: [*AUTH_OPTS, *more]}


def _plugin_name(conf: Any, section: str) -> str | None:
    options = conf[section]
    found: str | None = options.auth_type or ("password" if options.auth_url else None)
    return found


def _opts_of(plugin: str) -> list[Any]:
    """The options of a plugin that are not among those of every plugin."""
    from keystoneauth1 import loading

    known = {opt.dest for opt in AUTH_OPTS}
    return [opt for opt in loading.get_auth_plugin_conf_options(plugin) if opt.dest not in known]


def _plugin(conf: Any, section: str) -> Any:
    from keystoneauth1 import loading

    conf.register_opts(AUTH_OPTS, group=section)
    options, name = conf[section], _plugin_name(conf, section)
    if name is None:
        raise ConfigError(
            "no Glance is configured: set [glance] cloud, or auth_url and the credentials, "
            "or endpoint_override with auth_type = none"
        )
    if name == "none" and not conf[GROUP].endpoint_override:
        raise ConfigError("[glance] auth_type = none needs endpoint_override, the URL of Glance")
    conf.register_opts(_opts_of(name), group=section)
    return loading.get_plugin_loader(name).load_from_options_getter(lambda opt: options[opt.dest])


def _checked(endpoint: str | None, where: str) -> str:
    if not endpoint:
        raise ConfigError(f"Keystone's catalogue has no endpoint of Glance ({where}); set [glance] endpoint_override")
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"not the URL of a Glance: {endpoint!r}; see [glance] endpoint_override")
    return _VERSION.sub("", endpoint.rstrip("/"))


def errors() -> tuple[type[Exception], ...]:
    """What keystoneauth raises."""
    from keystoneauth1 import exceptions as ksa

    return (ksa.ClientException, ksa.RetriableConnectionFailure)


def meaning(exc: Exception) -> Error:
    """The error of ours that one of :func:`errors` stands for; :class:`Interrupted` where that may pass."""
    from keystoneauth1 import exceptions as ksa

    told = " ".join(str(exc).split())[:300]
    if isinstance(exc, ksa.Unauthorized | ksa.Forbidden):
        return SourceDenied(f"Keystone refuses the credentials: {told}")
    if isinstance(exc, ksa.SSLError):
        return ConfigError(f"the certificate of Keystone or Glance is not trusted; see [glance] cafile: {told}")
    if isinstance(exc, ksa.CatalogException):
        return ConfigError(f"no endpoint of Glance in Keystone's catalogue; see [glance] endpoint_override: {told}")
    if isinstance(exc, ksa.AuthPluginException):
        return ConfigError(f"the credentials in [glance] cannot be used: {told}")
    if isinstance(exc, ksa.HTTPClientError):
        return ConfigError(f"Keystone does not understand the request; see [glance] auth_url: {told}")
    passing = (ksa.ConnectionError, ksa.DiscoveryFailure, ksa.HttpServerError, ksa.RetriableConnectionFailure)
    if isinstance(exc, passing):
        return Interrupted(f"Keystone or Glance does not answer; see [glance]: {_POOL.sub('', told)}: {reason(exc)}")
    return SourceUnavailable(f"Keystone or Glance answers what is not understood: {told}")
