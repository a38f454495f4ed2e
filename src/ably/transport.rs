//! Opening a transport: an address, a TCP connection with the options that bound how long its bytes can live, TLS, WebSocket.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::{ClientConfig, RootCertStore};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream};

use super::auth::Auth;
use super::endpoint::Hosts;
use super::fault::Error;
use super::gate::Gate;
use super::pool::Settings;
use super::realtime::Secrets;
use super::wire;
use crate::config::TCP_USER_TIMEOUT;

/// Acknowledgements are small, and the buffer is cleared for every read.
const READ_BUFFER: usize = 16 * 1024;

/// A transport.
pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Where connections go, and how they introduce themselves.
#[derive(Debug)]
pub(super) struct Target {
    hosts: Hosts,
    port: u16,
    tls: bool,
    gate: Gate,
    /// What all connections say of themselves, credentials aside.
    parameters: String,
    tls_config: OnceLock<Result<Arc<ClientConfig>, String>>,
    secrets: Secrets,
}

impl Target {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut parameters = String::new();
        let rollup = settings.append_rollup.as_millis().to_string();
        let version = wire::VERSION.to_string();
        for (name, value) in [
            ("v", &*version),
            ("format", settings.encoding.as_str()),
            ("heartbeats", "true"),
            ("echo", "false"),
            ("agent", &settings.agent),
            ("appendRollupWindow", &rollup),
            ("clientId", &settings.client_id),
        ] {
            if !value.is_empty() {
                add(&mut parameters, name, value);
            }
        }
        let hosts = Hosts::of(&settings.endpoint);
        let (port, tls, gate) = (settings.port, settings.tls, Gate::new(settings.openings));
        Self { hosts, port, tls, gate, parameters, tls_config: OnceLock::new(), secrets: Secrets::default() }
    }

    /// What its connections know of their secrets.
    pub(super) const fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Opens a transport to the host whose turn it is.
    pub(super) async fn open(
        &self,
        auth: &Auth,
        resume: Option<&str>,
        failures: u32,
        spread: u32,
    ) -> Result<Socket, Error> {
        let host = self.hosts.choose(failures, spread);
        let unreachable = |reason: String| Error::Unreachable { host: host.to_owned(), port: self.port, reason };
        let request = self.address(host, auth, resume).into_client_request();
        // The error might quote the address, and the address holds the key.
        let request = request.map_err(|_| unreachable("not an address".to_owned()))?;
        let connector = match self.connector() {
            Ok(connector) => connector,
            Err(reason) => return Err(unreachable(reason)),
        };
        match self.gate.turn() {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return Err(unreachable("too many connections are being opened already".to_owned())),
        }
        let nobody = |error| unreachable(format!("{error}; check ably.endpoint and ably.port"));
        let tcp = TcpStream::connect((host, self.port)).await.map_err(nobody)?;
        configure(&tcp).map_err(|error| unreachable(error.to_string()))?;
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
        let opened = tokio_tungstenite::client_async_tls_with_config(request, tcp, Some(config), Some(connector)).await;
        Ok(opened.map_err(|error| unreachable(misunderstood(&error, self.tls)))?.0)
    }

    fn address(&self, host: &str, auth: &Auth, resume: Option<&str>) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let mut address = format!("{scheme}://{host}:{}/?{}", self.port, self.parameters);
        let (name, secret) = auth.parameter();
        add(&mut address, name, secret.expose());
        if let Some(key) = resume {
            add(&mut address, "resume", key);
        }
        address
    }

    fn connector(&self) -> Result<Connector, String> {
        if !self.tls {
            return Ok(Connector::Plain);
        }
        Ok(Connector::Rustls(self.tls_config.get_or_init(tls_config).clone()?))
    }
}

/// Somebody listens, but says something else than we expect: what to look at.
fn misunderstood(error: &tungstenite::Error, tls: bool) -> String {
    let of_tls = match error {
        tungstenite::Error::Io(error) => error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()),
        _ => None,
    };
    let remedy = match (error, of_tls) {
        (_, Some(rustls::Error::InvalidCertificate(_))) => {
            "check ably.endpoint, or name the authority of its certificate in SSL_CERT_FILE"
        }
        (_, Some(rustls::Error::InvalidMessage(_))) => "that is no TLS: check ably.port, or set ably.tls = false",
        (tungstenite::Error::Http(_), _) => "that is not Ably: check ably.endpoint and ably.port",
        _ if tls => return error.to_string(),
        _ => "if it wants TLS, set ably.tls = true; else check ably.endpoint and ably.port",
    };
    format!("{error}; {remedy}")
}

fn add(address: &mut String, name: &str, value: &str) {
    if !address.is_empty() && !address.ends_with('?') {
        address.push('&');
    }
    // Writing to a string cannot fail.
    let _ = write!(address, "{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
}

/// Frames leave at once; and whatever ends the socket, save a clean close, takes back what has not left.
fn configure(tcp: &TcpStream) -> std::io::Result<()> {
    let socket = SockRef::from(tcp);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    socket.set_linger(Some(Duration::ZERO))
}

/// The connection ended in agreement: what is on its way may arrive.
pub(super) fn close_softly(socket: &Socket) {
    // If it fails the socket is closed hard, which is no harm here.
    let _ = SockRef::from(socket.get_ref().get_ref()).set_linger(None);
}

fn tls_config() -> Result<Arc<ClientConfig>, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(
            "no root certificates on this machine; install ca-certificates, or name a file in SSL_CERT_FILE".into()
        );
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn an_address_introduces_us() {
        let mut config = config::Ably { endpoint: "127.0.0.1".into(), port: 81, tls: false, ..config::Ably::default() };
        config.key = Some(config::Secret::new("app.id:s&e=c r".replace(' ', "+")));
        config.client_id = "relay 1".into();
        let settings = Settings::from_config(&config).expect("settings");
        let address = Target::new(&settings).address("::1", &settings.auth, Some("a!b"));
        let version = env!("CARGO_PKG_VERSION").replace('.', "%2E");
        let expected = format!(
            "ws://[::1]:81/?v=6&format=msgpack&heartbeats=true&echo=false&agent=tokenrelay%2F{version}\
             &appendRollupWindow=40&clientId=relay%201&key=app%2Eid%3As%26e%3Dc%2Br&resume=a%21b"
        );
        assert_eq!(address, expected);
    }
}
