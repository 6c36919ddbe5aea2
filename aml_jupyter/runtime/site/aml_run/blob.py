"""An account of Azure Blob storage inside a run, from Python and from Spark, by the variables it has."""

import os

__all__ = ["Storage", "StorageError", "storage"]

_SUFFIX = "core.windows.net"


class StorageError(Exception):
    """The run has no credentials for the account, or a package is missing; the message says what to do."""


def storage(prefix="AZURE_STORAGE"):
    """The account that the run was given credentials of.

    Reads the variable `<prefix>_CONNECTION_STRING`, failing that `<prefix>_ACCOUNT` with `<prefix>_KEY` or
    `<prefix>_SAS_TOKEN`.  Raises StorageError.
    """
    text = os.environ.get(prefix + "_CONNECTION_STRING", "")
    if text:
        return _from_connection_string(text, prefix)
    account = os.environ.get(prefix + "_ACCOUNT", "")
    key = os.environ.get(prefix + "_KEY", "")
    sas = os.environ.get(prefix + "_SAS_TOKEN", "")
    if not account or not (key or sas):
        raise StorageError(
            "this run has no credentials for Blob storage: submit it with"
            " --secret {0}_CONNECTION_STRING (or {0}_ACCOUNT and {0}_KEY)".format(prefix)
        )
    return Storage(account, key=key, sas=sas)


def _from_connection_string(text, prefix):
    found = {}
    for part in text.split(";"):
        name, equals, value = part.strip().partition("=")
        if equals:
            found[name.lower()] = value
    endpoint = found.get("blobendpoint", "").rstrip("/")
    account = found.get("accountname", "") or _account_of(endpoint)
    key, sas = found.get("accountkey", ""), found.get("sharedaccesssignature", "")
    if not account or not (key or sas):
        # the text itself is a secret
        raise StorageError("the variable %s_CONNECTION_STRING names no account, or no key for it" % prefix)
    if not endpoint:
        protocol = found.get("defaultendpointsprotocol", "https")
        endpoint = "%s://%s.blob.%s" % (protocol, account, found.get("endpointsuffix", _SUFFIX))
    return Storage(account, key=key, sas=sas, endpoint=endpoint)


def _account_of(endpoint):
    host = endpoint.partition("://")[2].partition("/")[0]
    return host.partition(".blob.")[0] if ".blob." in host else ""


class Storage:
    """An account: `account` is its name, `endpoint` where it answers.  Its key is never shown."""

    def __init__(self, account, key="", sas="", endpoint=""):
        self.account = account
        self.endpoint = endpoint or "https://%s.blob.%s" % (account, _SUFFIX)
        self._key = key
        self._sas = sas.lstrip("?")

    def __repr__(self):
        return "Storage(%r, endpoint=%r)" % (self.account, self.endpoint)

    @property
    def host(self):
        """The host of the account, as Spark's settings and paths name it."""
        host = self.endpoint.partition("://")[2].partition("/")[0]
        return host if ".blob." in host else "%s.blob.%s" % (self.account, _SUFFIX)

    def service(self):
        """A BlobServiceClient of azure-storage-blob.  Raises StorageError where that is not installed."""
        try:
            from azure.storage.blob import BlobServiceClient
        except ImportError:
            raise StorageError(
                "azure-storage-blob is not installed where this runs: add it below `- pip:` in"
                " aml_config/conda_dependencies.yml, or install it into this Python"
            ) from None
        return BlobServiceClient(self.endpoint, credential=self._key or self._sas)

    def container(self, name, create=True):
        """A ContainerClient; the container is made where it is not there, unless `create` is false."""
        client = self.service().get_container_client(name)
        if create and not client.exists():
            client.create_container()
        return client

    def path(self, container, path=""):
        """Where Spark finds a path of a container: `wasbs://container@account.blob.core.windows.net/path`."""
        scheme = "wasb" if self.endpoint.startswith("http://") else "wasbs"
        return "%s://%s@%s/%s" % (scheme, container, self.host, path.lstrip("/"))

    def attach(self, spark, container=""):
        """Let a Spark session reach the account; `container` is needed with a SAS token, which is for one.

        Sets `fs.azure.account.key.<account>.blob.core.windows.net` (or `fs.azure.sas.<container>.<...>`) in
        the session's Hadoop configuration, which no file and no record holds.  Gives the session back.
        Raises StorageError.
        """
        context = getattr(spark, "sparkContext", spark)
        settings = context._jsc.hadoopConfiguration()
        if self._key:
            settings.set("fs.azure.account.key." + self.host, self._key)
        elif container:
            settings.set("fs.azure.sas.%s.%s" % (container, self.host), self._sas)
        else:
            raise StorageError("a SAS token is for one container: storage().attach(spark, container=NAME)")
        return spark
