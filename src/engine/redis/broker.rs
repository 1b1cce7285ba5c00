//! The broker's URL, and connections to the broker. The broker is one server, a master that Sentinels know, or a
//! cluster.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisError,
    RedisFuture, RedisResult, TlsCertificates, TlsMode, Value,
};
use tokio::sync::Mutex;

/// If a request gets no answer within this time, it fails.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The broker's URL is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrlError(String);

impl fmt::Display for BrokerUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "invalid redis-url: {}; expected redis://[user:password@]host[:port][/db], \
             redis-sentinel://[user:password@]host:port,host:port/master[/db], or \
             redis-cluster://[user:password@]host:port,host:port; \
             for TLS rediss://, redis-sentinels:// or redis-clusters://",
            self.0
        )
    }
}

/// The three kinds of broker, each with a client that connects to it.
pub(super) enum Broker {
    Server(Box<Client>),
    Sentinels(Box<Mutex<SentinelClient>>),
    Cluster(Box<ClusterClient>),
}

/// A connection that many requests share.
#[derive(Clone)]
pub(super) enum Link {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Broker {
    /// Parses a URL. The error does not show the URL, because it may hold a password.
    pub(super) fn parse(url: &str, root_certificate: Option<Vec<u8>>) -> Result<Self, BrokerUrlError> {
        let certificates = TlsCertificates { client_tls: None, root_cert: root_certificate };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| BrokerUrlError("it has no scheme".to_owned()))?;
        let refused = |error: RedisError| BrokerUrlError(error.to_string());
        match scheme {
            "redis" | "rediss" | "valkey" | "valkeys" => {
                let info = url.into_connection_info().map_err(refused)?;
                let tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
                let client = if tls { Client::build_with_tls(info, certificates) } else { Client::open(info) };
                client.map(|client| Self::Server(Box::new(client))).map_err(refused)
            }
            "redis-sentinel" | "redis-sentinels" => {
                ServerList::parse(rest)?.sentinels(scheme.ends_with('s'), certificates).map_err(refused)
            }
            "redis-cluster" | "redis-clusters" => {
                ServerList::parse(rest)?.cluster(scheme.ends_with('s'), certificates).map_err(refused)
            }
            // Show the scheme only if all its characters are valid. Otherwise the text before `://` may contain a
            // password.
            _ if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) => {
                Err(BrokerUrlError(format!("unknown scheme '{scheme}'")))
            }
            _ => Err(BrokerUrlError("the part before :// is not a scheme".to_owned())),
        }
    }

    pub(super) async fn connect(&self) -> RedisResult<Link> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        match self {
            Self::Server(client) => {
                client.get_multiplexed_async_connection_with_config(&config).await.map(Link::Server)
            }
            Self::Sentinels(client) => {
                client.lock().await.get_async_connection_with_config(&config).await.map(Link::Server)
            }
            Self::Cluster(client) => client.get_async_connection().await.map(Link::Cluster),
        }
    }
}

/// The part after `://` of a URL with several servers: `[user:password@]host:port,host:port[/name[/db]]`.
struct ServerList {
    username: Option<String>,
    password: Option<String>,
    servers: Vec<(String, u16)>,
    name: Option<String>,
    db: i64,
}

impl ServerList {
    fn parse(text: &str) -> Result<Self, BrokerUrlError> {
        let wrong = |what: &str| BrokerUrlError(what.to_owned());
        let (text, path) = text.split_once('/').map_or((text, None), |(servers, path)| (servers, Some(path)));
        let (user, servers) = text.rsplit_once('@').map_or((None, text), |(user, servers)| (Some(user), servers));
        let decode = |text: &str| {
            let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
            decoded.map(Cow::into_owned).map_err(|_| wrong("user or password is not UTF-8"))
        };
        let (username, password) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
            Some((username, password)) => (Some(decode(username)?), Some(decode(password)?)),
            None => (None, None),
        };
        let server = |text: &str| {
            let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("a server has no port"))?;
            let port = port.parse().map_err(|_| wrong("a port is not a number from 0 to 65535"))?;
            Ok((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
        };
        let servers = servers.split(',').map(server).collect::<Result<Vec<_>, BrokerUrlError>>()?;
        let mut path = path.into_iter().flat_map(|path| path.split('/')).filter(|part| !part.is_empty());
        let name = path.next().map(str::to_owned);
        let db = path.next().map(|db| db.parse().map_err(|_| wrong("the database is not a number"))).transpose()?;
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Self { username: some(username), password: some(password), servers, name, db: db.unwrap_or(0) })
    }

    fn addresses(&self, tls: bool) -> Vec<ConnectionAddr> {
        let address = |(host, port): &(String, u16)| {
            if tls {
                ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
            } else {
                ConnectionAddr::Tcp(host.clone(), *port)
            }
        };
        self.servers.iter().map(address).collect()
    }

    fn sentinels(self, tls: bool, certificates: TlsCertificates) -> RedisResult<Broker> {
        let name = self.name.clone().ok_or((redis::ErrorKind::InvalidClientConfig, "the master has no name"))?;
        let mut builder = SentinelClientBuilder::new(self.addresses(tls), name, SentinelServerType::Master)?
            .set_client_to_redis_db(self.db);
        if tls {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
        if let Some(username) = &self.username {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = &self.password {
            builder = builder.set_client_to_redis_password(password);
        }
        builder.build().map(|client| Broker::Sentinels(Box::new(Mutex::new(client))))
    }

    fn cluster(self, tls: bool, certificates: TlsCertificates) -> RedisResult<Broker> {
        let infos = self.addresses(tls).into_iter().map(IntoConnectionInfo::into_connection_info);
        let infos = infos.collect::<RedisResult<Vec<ConnectionInfo>>>()?;
        let mut builder = ClusterClient::builder(infos)
            .connection_timeout(CONNECT_TIMEOUT)
            .response_timeout(RESPONSE_TIMEOUT)
            // If the library retried a request, the broker could store a batch twice.
            .retries(0);
        if tls {
            builder = builder.tls(TlsMode::Secure).certs(certificates);
        }
        if let Some(username) = &self.username {
            builder = builder.username(username);
        }
        if let Some(password) = &self.password {
            builder = builder.password(password);
        }
        builder.build().map(|client| Broker::Cluster(Box::new(client)))
    }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Server(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Server(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Server(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_every_kind_are_accepted() {
        for url in [
            "redis://localhost",
            "redis://user:secret@localhost:6380/2",
            "valkey://localhost:6379",
            "rediss://:secret@localhost",
            "redis-sentinel://a:26379,b:26379/main",
            "redis-sentinels://user:se%40cret@a:26379/main/1",
            "redis-cluster://a:7000,b:7001,[::1]:7002",
            "redis-clusters://:secret@a:7000",
        ] {
            assert!(Broker::parse(url, None).is_ok(), "{url}");
        }
    }

    #[test]
    fn invalid_url_is_refused_and_not_shown() {
        for url in [
            "",
            "localhost:6379",
            "http://secret@localhost",
            "secret@redis://localhost",
            "redis://:secret@localhost:port",
            "redis://:secret@localhost/number",
            "redis-sentinel://secret@a:26379",
            "redis-cluster://secret@a",
            "redis-cluster://secret@a:port",
        ] {
            let error = Broker::parse(url, None).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains("redis-sentinel://") && !error.contains("secret"), "{url}: {error}");
        }
    }
}
