//! Response caches side by side: the cost of a hit, of a miss, of a burst of misses and of a stale hit.
//!
//! ```text
//! cargo run --release --features cache --bin cache
//! cargo run --release --features cache --bin cache hits
//! cargo run --release --features cache --bin cache sockets
//! cargo run --release --features cache --bin cache collapse
//! cargo run --release --features cache --bin cache expiry
//! ```
//!
//! Everything runs in one process, through `oneshot` on a clone of the service, as a server calls it. Routers
//! have their state, as `axum::serve` gives it to them. The contenders take turns in slices of 100 calls. The
//! requests of a slice are made before its time begins, and allocations are counted only where they are asked
//! for: both would be a part of every figure.
#![allow(unsafe_code, clippy::print_stdout)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use graceful::cache::LruCacheLayer;
use http::{Request, Response};
use http_body_util::BodyExt;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt};

struct Counting;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything on to the system's allocator and only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IS_COUNTING.load(Ordering::Relaxed) {
            CALLS.fetch_add(1, Ordering::Relaxed);
            BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

type Call = Arc<dyn Fn(Request<Body>) -> Pin<Box<dyn Future<Output = usize> + Send>> + Send + Sync>;

/// Something that answers requests.
struct Contender {
    name: &'static str,
    call: Call,
}

impl Contender {
    fn new<S, B>(name: &'static str, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: std::fmt::Debug,
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Debug,
    {
        let call: Call = Arc::new(move |request| {
            let service = service.clone();
            Box::pin(async move {
                let mut body = service.oneshot(request).await.unwrap().into_body();
                let mut read = 0;
                while let Some(frame) = body.frame().await {
                    read += frame.unwrap().data_ref().map_or(0, Bytes::len);
                }
                read
            })
        });
        Self { name, call }
    }
}

struct Synced(Mutex<Body>);

impl http_body::Body for Synced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(self.get_mut().0.get_mut().unwrap()).poll_frame(cx)
    }
}

/// The app: three headers, and as many bytes as the path says, which exist already.
fn routes(wait: Duration) -> Router {
    let one = |size: usize, control: &'static str| {
        let body = Bytes::from(vec![7_u8; size]);
        get(move || {
            let body = body.clone();
            async move {
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                let headers = [
                    ("cache-control", control),
                    ("content-type", "application/octet-stream"),
                    ("x-any", "thing"),
                ];
                (headers, body)
            }
        })
    };
    Router::<()>::new()
        .route("/100", one(100, "max-age=3600"))
        .route("/1024", one(1024, "max-age=3600"))
        .route("/1048576", one(1024 * 1024, "max-age=3600"))
        .route("/stale", one(1024, "max-age=0, stale-while-revalidate=3600"))
        .route("/miss/{number}", one(1024, "max-age=3600"))
}

/// A router as `axum::serve` runs it: without state it would make each route anew for each request.
fn served(router: Router) -> Router {
    router.with_state(())
}

fn contenders(wait: Duration) -> Vec<Contender> {
    let ours = || LruCacheLayer::new(1_000_000);
    let minute = Duration::from_secs(60);
    let response_cache = axum_response_cache::CacheLayer::with_lifespan(minute);
    let tower_http_cache = tower_http_cache::prelude::CacheLayer::builder(
        tower_http_cache::prelude::InMemoryBackend::new(1_000_000),
    )
    .ttl(minute)
    .max_body_size(Some(4 * 1024 * 1024))
    .build();
    let server = http_cache_tower_server::ServerCacheLayer::new(http_cache::MokaManager::default());
    vec![
        Contender::new("plain handler", served(routes(wait))),
        Contender::new("graceful, Router::layer", served(routes(wait).layer(ours()))),
        Contender::new("graceful, around Router", ours().layer(served(routes(wait)))),
        Contender::new("axum-response-cache", served(routes(wait).layer(response_cache))),
        Contender::new("tower-http-cache", {
            // It asks for a body that is Sync, which axum's is not.
            let routes = ServiceExt::<Request<Body>>::map_response(
                served(routes(wait)),
                |response: Response<Body>| response.map(|body| Synced(Mutex::new(body))),
            );
            let service = tower_http_cache.layer(routes);
            let boxed =
                ServiceExt::<Request<Body>>::map_response(service, |response: Response<_>| {
                    response.map(Body::new)
                });
            BoxCloneSyncService::new(boxed)
        }),
        Contender::new("http-cache-tower-server", {
            let service = server.layer(served(routes(wait)));
            let boxed =
                ServiceExt::<Request<Body>>::map_response(service, |response: Response<_>| {
                    response.map(Body::new)
                });
            BoxCloneSyncService::new(boxed)
        }),
    ]
}

fn request(path: &str) -> Request<Body> {
    Request::get(path).header("host", "example.com").body(Body::empty()).unwrap()
}

fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() as f64 * share) as usize]
}

/// Nanoseconds of one call each, for all contenders in turn: short slices, of which the fastest tenth is
/// what the machine's other work did not disturb.
fn hits(contenders: &[Contender], path: &str, slices: usize) -> Vec<f64> {
    const CALLS: usize = 100;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut figures = vec![Vec::new(); contenders.len()];
        for contender in contenders {
            for _ in 0..3 {
                (contender.call)(request(path)).await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        for _ in 0..slices {
            for (contender, figures) in contenders.iter().zip(&mut figures) {
                // A slow one must not take all the time.
                let calls = if figures.last().is_some_and(|last| *last > 1e5) { 2 } else { CALLS };
                let requests: Vec<_> = (0..calls).map(|_| request(path)).collect();
                let start = Instant::now();
                for request in requests {
                    (contender.call)(request).await;
                }
                figures.push(start.elapsed().as_nanos() as f64 / calls as f64);
                // What was begun in the background ends here.
                tokio::task::yield_now().await;
            }
        }
        figures.into_iter().map(|figures| quantile(figures, 0.1)).collect()
    })
}

/// So many calls, for a profiler.
fn repeat(contender: &Contender, count: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for number in 0..count {
            (contender.call)(request("/1024")).await;
            if number < 10 {
                // What stores in a task of its own does so now.
                tokio::task::yield_now().await;
            }
        }
    });
}

/// Allocations and bytes of one call, without those of the request and of this program.
fn allocations(contender: &Contender, path: &str) -> (usize, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for _ in 0..3 {
            (contender.call)(request(path)).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let request = request(path);
        CALLS.store(0, Ordering::Relaxed);
        BYTES.store(0, Ordering::Relaxed);
        IS_COUNTING.store(true, Ordering::Relaxed);
        (contender.call)(request).await;
        IS_COUNTING.store(false, Ordering::Relaxed);
        // The box around the call is this program's.
        (CALLS.load(Ordering::Relaxed) - 1, BYTES.load(Ordering::Relaxed))
    })
}

/// Hits per second with as many tasks on two threads.
fn parallel(contender: &Contender, tasks: usize) -> f64 {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        (contender.call)(request("/1024")).await;
        let start = Instant::now();
        let until = start + Duration::from_millis(300);
        let all: Vec<_> = (0..tasks)
            .map(|_| {
                let call = contender.call.clone();
                tokio::spawn(async move {
                    let mut count = 0_u64;
                    while Instant::now() < until {
                        for _ in 0..64 {
                            call(request("/1024")).await;
                        }
                        count += 64;
                        tokio::task::yield_now().await;
                    }
                    count
                })
            })
            .collect();
        let mut total = 0;
        for one in all {
            total += one.await.unwrap();
        }
        total as f64 / start.elapsed().as_secs_f64()
    })
}

/// Nanoseconds of a miss, each of another path.
fn misses(contender: &Contender) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut rounds = Vec::new();
        for round in 0..5 {
            let requests: Vec<_> =
                (0..4000).map(|number| request(&format!("/miss/{round}-{number}"))).collect();
            let start = Instant::now();
            for request in requests {
                (contender.call)(request).await;
            }
            rounds.push(start.elapsed().as_nanos() as f64 / 4000.0);
        }
        median(rounds)
    })
}

/// Milliseconds until a burst of 300 requests for one path is answered; the handler takes 50 ms.
fn burst(contender: &Contender) -> f64 {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        let start = Instant::now();
        let all: Vec<_> =
            (0..300).map(|_| tokio::spawn((contender.call)(request("/1024")))).collect();
        for one in all {
            one.await.unwrap();
        }
        start.elapsed().as_secs_f64() * 1000.0
    })
}

/// Serves one app until its standard input ends; says where.
fn serve(name: &str) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        let layer = LruCacheLayer::new(1000);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        let closed = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
        let plain = routes(Duration::ZERO);
        let serving = match name {
            "plain handler" => tokio::spawn(async { axum::serve(listener, plain).await }),
            "graceful, Router::layer" => {
                let app = plain.layer(layer);
                tokio::spawn(async { axum::serve(listener, app).await })
            }
            _ => {
                // The body as axum::serve wants it.
                let app = tower::ServiceBuilder::new()
                    .map_response(|answer: Response<_>| answer.map(Body::new))
                    .layer(layer)
                    .service(served(plain));
                let app = axum::ServiceExt::<Request<Body>>::into_make_service(app);
                tokio::spawn(async { axum::serve(listener, app).await })
            }
        };
        let _ = closed.await;
        serving.abort();
    });
}

/// Microseconds of CPU time of the server for each request over 32 kept connections.
fn sockets(name: &str) -> f64 {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["serve", name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address: std::net::SocketAddr = line.trim().parse().unwrap();
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let load = |count: usize| {
        runtime.block_on(async {
            let all: Vec<_> = (0..32)
                .map(|_| {
                    tokio::spawn(async move {
                        use tokio::io::{AsyncReadExt, AsyncWriteExt};
                        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
                        stream.set_nodelay(true).unwrap();
                        let mut buffer = vec![0; 8192];
                        for _ in 0..count / 32 {
                            stream
                                .write_all(b"GET /1024 HTTP/1.1\r\nhost: h\r\n\r\n")
                                .await
                                .unwrap();
                            let mut read = 0;
                            loop {
                                read += stream.read(&mut buffer[read..]).await.unwrap();
                                let head =
                                    buffer[..read].windows(4).position(|four| four == b"\r\n\r\n");
                                if head.is_some_and(|head| read >= head + 4 + 1024) {
                                    break;
                                }
                            }
                        }
                    })
                })
                .collect();
            for one in all {
                one.await.unwrap();
            }
        });
    };
    load(3200);
    let before = ticks();
    let count = 128_000;
    load(count);
    // A tick is a hundredth of a second.
    let used = (ticks() - before) as f64 * 10_000.0 / count as f64;
    drop(child.stdin.take());
    let _ = child.wait();
    used
}

mod collapse;
mod expiry;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("serve") => return serve(&arguments[2]),
        Some("sockets") => {
            println!(
                "CPU time of the server for each hit of 1 KiB over sockets: us, median of five"
            );
            let names = ["plain handler", "graceful, Router::layer", "graceful, around Router"];
            let mut figures = [const { Vec::new() }; 3];
            for _ in 0..5 {
                for (name, figures) in names.iter().zip(&mut figures) {
                    figures.push(sockets(name));
                }
            }
            for (name, figures) in names.iter().zip(figures) {
                println!("{name:26} {:6.2}", median(figures));
            }
            return;
        }
        Some("collapse") => return collapse::run(),
        Some("expiry") => return expiry::run(),
        // For a profiler: as many hits of 1 KiB by one contender as the second number says.
        Some("hit") => {
            let mut all = contenders(Duration::ZERO);
            all.retain(|contender| contender.name == arguments[2]);
            return repeat(&all[0], arguments[3].parse().unwrap());
        }
        _ => {}
    }
    let all = contenders(Duration::ZERO);
    let sizes = ["/100", "/1024", "/1048576"];
    let figures: Vec<Vec<f64>> = sizes.iter().map(|path| hits(&all, path, 300)).collect();
    println!("hit: ns of 100 B, 1 KiB, 1 MiB | relative to the handler | allocations, bytes");
    for (at, contender) in all.iter().enumerate() {
        let (calls, bytes) = allocations(contender, "/1024");
        println!(
            "{:26} {:9.0} {:9.0} {:12.0} | {:5.2} | {calls:4} {bytes:6}",
            contender.name,
            figures[0][at],
            figures[1][at],
            figures[2][at],
            figures[1][at] / figures[1][0],
        );
    }
    if arguments.get(1).is_some_and(|one| one == "hits") {
        return;
    }
    println!("\nstale hit (stale-while-revalidate, refreshed each time): ns");
    let stale = hits(&all[..3], "/stale", 300);
    for (contender, figure) in all.iter().zip(&stale) {
        println!("{:26} {figure:9.0}", contender.name);
    }
    println!("\nmiss: ns | burst of 300 misses, handler of 50 ms: ms");
    let slow = contenders(Duration::from_millis(50));
    for (contender, slow) in all.iter().zip(&slow) {
        println!("{:26} {:9.0} | {:7.1}", contender.name, misses(contender), burst(slow));
    }
    println!("\nhits of 1 KiB per second, two threads: 1, 2, 4, 8 tasks");
    for contender in &all {
        let rates: Vec<String> = [1, 2, 4, 8]
            .iter()
            .map(|tasks| format!("{:9.0}", parallel(contender, *tasks)))
            .collect();
        println!("{:26} {}", contender.name, rates.join(" "));
    }
}
