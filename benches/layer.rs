//! What `GracefulLayer` costs: nanoseconds and allocations per request over the bare service.
//!
//! ```text
//! cargo bench --features layer --bench layer
//! ```
//!
//! Batches of the bare and of the layered service take turns, and the differences of neighbours count, so
//! that a change of the machine's speed falls on both. Where the stack lies within a cache line, which is
//! random in each process, changes the cost by ten nanoseconds and more: the cost is the mean of the medians
//! of all four places. A request goes the whole way: call, response future, every frame of the body, drop.
//! The target is 20 ns and no allocation; with `-- --check` a miss is a failure.
#![allow(missing_docs, clippy::print_stdout, reason = "a program, and its table")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::convert::Infallible;
use std::future::Future;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use graceful::{Drain, GracefulLayer};
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::util::ServiceFn;
use tower::{Layer, Service, ServiceExt, layer::layer_fn, service_fn};

const TARGET_NANOS: f64 = 20.0;
const BATCHES: usize = 640;
const REQUESTS: u64 = 10_000;
/// The batches are spread over so many places of the stack: stores that overlap and pages that alias change
/// what a move costs.
const PLACES: usize = 64;
/// Of a stack that is aligned to 16 bytes in a cache line of 64.
const ALIGNMENTS: usize = 4;

fn main() -> ExitCode {
    let check = std::env::args().any(|arg| arg == "--check");
    println!(
        "{:<42} {:>9} {:>9} {:>9} {:>12}",
        "per request", "bare", "layered", "cost", "allocations"
    );
    let plain = || Request::new(());
    // What any layer costs that touches the response body: the moves.
    let wrap = layer_fn(|inner: Bare| {
        inner.map_response(|response| response.map(|body| body.map_err(|never| never)))
    });
    compare("a layer that only wraps the body", wrap, plain);
    let cost = compare("GracefulLayer::new()", GracefulLayer::new(), plain);
    let refuse = GracefulLayer::new().refuse(Duration::from_secs(1)).exempt("/health");
    compare("with refuse() and exempt()", refuse, plain);
    let hook = GracefulLayer::new().on_event(|event| {
        black_box(event);
    });
    compare("with on_event()", hook, plain);
    // Whoever fills the extensions of a request allocates them: here, on both sides.
    let drain = Drain::new();
    compare("already counted by the server", GracefulLayer::new(), || {
        let mut request = Request::new(());
        request.extensions_mut().insert(drain.clone());
        request
    });
    contended();

    let is_met = cost.nanos <= TARGET_NANOS && cost.allocations == 0.0;
    let word = if is_met { "met" } else { "missed" };
    println!("{TARGET_NANOS} ns and no allocation: {word}");
    if check && !is_met { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

type Bare = ServiceFn<fn(Request<()>) -> Answer>;

fn bare() -> Bare {
    service_fn(|request| {
        black_box(&request);
        Answer
    })
}

/// Small, as the boxed futures of a router are: the response is made when it is polled.
struct Answer;

impl Future for Answer {
    type Output = Result<Response<Full<Bytes>>, Infallible>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(Response::new(Full::new(Bytes::from_static(b"hello, world\n")))))
    }
}

/// Per request.
#[derive(Clone, Copy)]
struct Cost {
    nanos: f64,
    allocations: f64,
}

fn compare<L, B>(name: &str, layer: L, request: impl Fn() -> Request<()>) -> Cost
where
    L: Layer<Bare>,
    L::Service: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body + Unpin,
{
    let mut bare = bare();
    let mut layered = layer.layer(bare);
    // Warms caches, branch predictors and the clock of the CPU.
    batch(&mut bare, &request);
    batch(&mut layered, &request);
    let mut pairs: [Vec<(Cost, Cost)>; ALIGNMENTS] = Default::default();
    for number in 0..BATCHES {
        // Neither is always the first, at no place.
        let is_bare_first = (number / PLACES).is_multiple_of(2);
        deeper(number % PLACES, &mut |alignment| {
            pairs[alignment].push(if is_bare_first {
                let without = batch(&mut bare, &request);
                (without, batch(&mut layered, &request))
            } else {
                let with = batch(&mut layered, &request);
                (batch(&mut bare, &request), with)
            });
        });
    }
    let mean = |of: fn(&(Cost, Cost)) -> f64| {
        let medians = pairs.iter().map(|pairs| median(pairs.iter().map(of)));
        medians.sum::<f64>() / ALIGNMENTS as f64
    };
    let without = mean(|(without, _)| without.nanos);
    let with = mean(|(_, with)| with.nanos);
    let nanos = mean(|(without, with)| with.nanos - without.nanos);
    let allocations = mean(|(without, with)| with.allocations - without.allocations);
    println!("{name:<42} {without:>6.1} ns {with:>6.1} ns {nanos:>6.1} ns {allocations:>12}");
    Cost { nanos, allocations }
}

/// Calls a function further down the stack, and tells it where in a cache line it is.
#[inline(never)]
fn deeper<T>(levels: usize, function: &mut dyn FnMut(usize) -> T) -> T {
    // One call takes an odd multiple of 16 bytes, so that calls reach each place in it.
    let room = [0_u8; 56];
    black_box(&room);
    if levels == 0 {
        function((&raw const room).addr() / 16 % ALIGNMENTS)
    } else {
        deeper(levels - 1, function)
    }
}

/// As many threads as there are CPUs, all in one layer: the count is shared, so its cache line travels.
fn contended() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let layer = GracefulLayer::new();
    let without = on_threads(threads, bare);
    let with = on_threads(threads, || layer.layer(bare()));
    let name = format!("{threads} threads, nothing but requests");
    println!("{name:<42} {without:>6.1} ns {with:>6.1} ns {:>6.1} ns", with - without);
}

fn on_threads<S, B>(threads: usize, service: impl Fn() -> S + Sync) -> f64
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body + Unpin,
{
    let barrier = Barrier::new(threads);
    let each = || {
        let mut service = service();
        barrier.wait();
        let places = (0..BATCHES / 4).map(|number| number % PLACES);
        let one = |place| deeper(place, &mut |_| batch(&mut service, &|| Request::new(())).nanos);
        median(places.map(one))
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(each)).collect();
        median(all.into_iter().map(|thread| thread.join().expect("a batch does not panic")))
    })
}

fn batch<S, B>(service: &mut S, request: &impl Fn() -> Request<()>) -> Cost
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body + Unpin,
{
    let allocated = ALLOCATIONS.load(Ordering::Relaxed);
    let began = Instant::now();
    for _ in 0..REQUESTS {
        serve(service, request());
    }
    let nanos = began.elapsed().as_nanos() as f64;
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - allocated;
    let per_request = REQUESTS as f64;
    Cost { nanos: nanos / per_request, allocations: allocations as f64 / per_request }
}

/// What a server does with a request.
fn serve<S, B>(service: &mut S, request: Request<()>)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body + Unpin,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let response = pin!(service.call(black_box(request))).poll(&mut cx);
    let Poll::Ready(Ok(response)) = response else { unreachable!("the service answers at once") };
    let mut body = response.into_body();
    while !body.is_end_stream() {
        match Pin::new(&mut body).poll_frame(&mut cx) {
            Poll::Ready(Some(frame)) => drop(black_box(frame)),
            Poll::Ready(None) => break,
            Poll::Pending => unreachable!("the body is there at once"),
        }
    }
    black_box(&body);
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, counted.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "the only way to count allocations")]
// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(block, layout, size) }
    }
}
