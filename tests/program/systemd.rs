//! The messages that the program sends to systemd, over the socket that `NOTIFY_SOCKET` names.

use serde_json::json;
use tokio::net::UnixDatagram;

use crate::harness::process::{Process, TOKEN, temporary};
use crate::harness::program::{Directory, Port};
use crate::harness::within;

/// A socket that receives messages in place of systemd.
struct ServiceManager {
    socket: UnixDatagram,
    path: String,
    _directory: Directory,
}

impl ServiceManager {
    fn new() -> Self {
        let directory = Directory::new();
        let path = directory.0.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, path: path.into_os_string().into_string().unwrap(), _directory: directory }
    }

    async fn serve(&self, environment: &[(&str, &str)]) -> Process {
        Process::serve(&[&[("NOTIFY_SOCKET", self.path.as_str())], environment].concat()).await
    }

    /// The next message from the program, as a list of lines.
    async fn told(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let length = within(self.socket.recv(&mut message)).await.unwrap();
        std::str::from_utf8(&message[..length]).unwrap().lines().map(str::to_owned).collect()
    }

    /// Whether the program has sent no further message. The test sends a message itself, which must be the next one.
    async fn has_told_nothing_else(&self) -> bool {
        let test = UnixDatagram::unbound().unwrap();
        test.send_to(b"END", &self.path).await.unwrap();
        self.told().await == ["END"]
    }
}

fn monotonic_microseconds() -> u64 {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    std::time::Duration::from_secs_f64(seconds).as_micros().try_into().unwrap()
}

#[tokio::test]
async fn systemd_is_told_that_the_server_is_ready() {
    let systemd = ServiceManager::new();
    let process = systemd.serve(&[]).await;
    let status = format!("STATUS=serving on {}", process.address);
    assert_eq!(systemd.told().await, ["READY=1", &status]);
    assert_eq!(process.publish(TOKEN).await, 200);
}

#[tokio::test]
async fn sighup_tells_systemd_of_the_reload_and_its_end() {
    let systemd = ServiceManager::new();
    let tokens = temporary("systemd-tokens", "first:sesame-1\n");
    let mut process = systemd.serve(&[("ODDSWIRE_PUBLISH_TOKEN_FILE", &tokens)]).await;
    systemd.told().await;
    std::fs::write(&tokens, "second:sesame-2\n").unwrap();
    process.signal("HUP");
    let reloading = systemd.told().await;
    assert_eq!((reloading.len(), reloading[0].as_str()), (2, "RELOADING=1"), "{reloading:?}");
    let time: u64 = reloading[1].strip_prefix("MONOTONIC_USEC=").expect("its time").parse().unwrap();
    // The kernel's uptime also counts suspended time, and has a resolution of 10 ms.
    assert!(time <= monotonic_microseconds() + 10_000, "{time}");
    assert_eq!(systemd.told().await, ["READY=1"]);
    assert_eq!((process.publish("sesame-1").await, process.publish("sesame-2").await), (401, 200));
    process.event("config.reloaded").await;
}

#[tokio::test]
async fn sigterm_tells_systemd_that_the_server_drains() {
    let systemd = ServiceManager::new();
    let process = systemd.serve(&[("ODDSWIRE_DRAIN_TIMEOUT", "100s")]).await;
    systemd.told().await;
    process.signal("TERM");
    assert_eq!(systemd.told().await, ["STOPPING=1", "EXTEND_TIMEOUT_USEC=105000000", "STATUS=draining"]);
    assert_eq!(process.end().await.code, Some(0));
    assert!(systemd.has_told_nothing_else().await);
}

#[tokio::test]
async fn server_without_its_broker_is_not_ready_for_systemd() {
    let systemd = ServiceManager::new();
    let nobody = Port::free();
    let url = format!("redis://{}", nobody.address);
    let settings = [("ODDSWIRE_ENGINE", "redis"), ("ODDSWIRE_REDIS_URL", url.as_str())];
    let mut process = systemd.serve(&settings).await;
    let status = systemd.told().await;
    assert!(status.len() == 1 && status[0].starts_with("STATUS=starting: "), "{status:?}");
    // A reload during the start does not report to systemd that the server is ready.
    process.signal("HUP");
    process.event("config.reloaded").await;
    process.signal("TERM");
    loop {
        let told = systemd.told().await;
        if told[0] == "STOPPING=1" {
            break;
        }
        assert!(told.len() == 1 && told[0].starts_with("STATUS="), "{told:?}");
    }
    assert_eq!(process.end().await.code, Some(0));
}

#[tokio::test]
async fn unreachable_systemd_causes_only_a_warning() {
    let directory = Directory::new();
    let path = directory.0.join("nobody").into_os_string().into_string().unwrap();
    let mut process = Process::serve(&[("NOTIFY_SOCKET", &path)]).await;
    assert_eq!(process.event("systemd.notify_failed").await["level"], json!("WARNING"));
    assert_eq!(process.publish(TOKEN).await, 200);
}
