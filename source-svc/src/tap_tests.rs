//! A server's messages as bytes, cut anywhere.

use tokio::io::AsyncReadExt;

use super::*;

fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((payload.len() as u32 + 4).to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Gives the pieces one by one, and says "not yet" before each.
struct Pieces {
    pieces: std::collections::VecDeque<Vec<u8>>,
    ready: bool,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.ready = !self.ready;
        if self.ready {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(mut piece) = self.pieces.pop_front() {
            let taken = piece.len().min(out.remaining());
            out.put_slice(&piece[..taken]);
            if taken < piece.len() {
                self.pieces.push_front(piece.split_off(taken));
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn tapped(bytes: &[u8], piece: usize, tap: &Tap) -> Tapped<Pieces> {
    let pieces = bytes.chunks(piece).map(<[u8]>::to_vec).collect();
    Tapped::new(Pieces { pieces, ready: false }, tap.clone())
}

/// What passes, the blocks, and the tag of a session that ends after `bytes`.
async fn run(bytes: &[u8], piece: usize) -> (Vec<u8>, Vec<Vec<u8>>, Option<u64>) {
    let tap = Tap::default();
    let mut copying = tap.open();
    // The tap outlives the stream, as a session's does.
    let mut stream = tapped(bytes, piece, &tap);
    let passing = tokio::spawn(async move {
        let mut passed = Vec::new();
        stream.read_to_end(&mut passed).await.unwrap();
        passed
    });
    let mut blocks = Vec::new();
    while let Some(block) = copying.next().await {
        blocks.push(block.clone());
        copying.recycle(block);
    }
    let tag = copying.tag().await;
    (passing.await.unwrap(), blocks, tag)
}

#[tokio::test]
async fn data_goes_to_the_tap_and_everything_else_passes() {
    let before = [message(b'2', b""), message(b'H', b"\x01\0\0")].concat();
    let rows: Vec<Vec<u8>> = (0..3_000u32).map(|i| vec![i as u8; i as usize % 97]).collect();
    let data: Vec<u8> = rows.iter().flat_map(|row| message(b'd', row)).collect();
    let notice = message(b'N', b"SNOTICE\0\0");
    let after = [message(b'c', b""), message(b'C', b"COPY 42\0"), message(b'Z', b"T")].concat();
    let half = rows[..1_500].iter().map(|row| row.len() + 5).sum();
    let bytes = [&before[..], &data[..half], &notice, &data[half..], &after].concat();
    for piece in [1, 2, 7, 1_000, 8_192, usize::MAX] {
        let (passed, blocks, tag) = run(&bytes, piece).await;
        assert_eq!(passed, [&before[..], &notice, &after].concat(), "pieces of {piece}");
        assert_eq!(blocks.concat(), rows.concat(), "pieces of {piece}");
        assert_eq!(tag, Some(42));
        // Every block ends where a row ends.
        let mut ends = rows.iter().scan(0, |end, row| {
            *end += row.len();
            Some(*end)
        });
        let mut end = 0;
        for block in &blocks {
            end += block.len();
            assert!(ends.any(|row| row == end), "pieces of {piece}");
        }
    }
}

#[tokio::test]
async fn a_message_larger_than_a_block_comes_in_several() {
    let row: Vec<u8> = (0..5_000_000u32).map(|i| i as u8).collect();
    let bytes = [
        message(b'H', b"\x01\0\0"),
        message(b'd', b"first"),
        message(b'd', &row),
        message(b'c', b""),
        message(b'C', b"COPY 2\0"),
    ]
    .concat();
    let (_, blocks, tag) = run(&bytes, 50_000).await;
    assert!(blocks.len() > 10 && blocks.iter().all(|block| block.len() < 1 << 20));
    assert_eq!(blocks.concat(), [b"first", &row[..]].concat());
    assert_eq!(tag, Some(2));
}

#[tokio::test]
async fn without_an_opened_tap_all_passes() {
    let bytes = [message(b'H', b"\x01\0\0"), message(b'd', b"row"), message(b'c', b"")].concat();
    let mut stream = tapped(&bytes, 3, &Tap::default());
    let mut passed = Vec::new();
    stream.read_to_end(&mut passed).await.unwrap();
    assert_eq!(passed, bytes);
}

#[tokio::test]
async fn a_copy_that_fails_or_is_cut_off_has_no_tag() {
    let begun = [message(b'H', b"\x01\0\0"), message(b'd', b"row")].concat();
    let failed = [&begun[..], &message(b'E', b"SERROR\0\0"), &message(b'Z', b"E")].concat();
    let (passed, blocks, tag) = run(&failed, 4).await;
    assert!(passed.ends_with(&message(b'Z', b"E")));
    assert_eq!((blocks.concat(), tag), (b"row".to_vec(), None));
    let cut = [&begun[..], &message(b'd', b"another row")[..9]].concat();
    assert_eq!(run(&cut, 4).await.2, None);
}

#[tokio::test]
async fn data_that_nobody_waits_for_goes_nowhere() {
    let tap = Tap::default();
    drop(tap.open());
    let row = vec![7; 10_000];
    let end = [message(b'c', b""), message(b'C', b"COPY 9\0")].concat();
    let mut bytes = message(b'H', b"\x01\0\0");
    (0..100).for_each(|_| bytes.extend(message(b'd', &row)));
    bytes.extend(&end);
    let mut stream = tapped(&bytes, 70_000, &tap);
    let mut passed = Vec::new();
    stream.read_to_end(&mut passed).await.unwrap();
    assert_eq!(passed, [message(b'H', b"\x01\0\0"), end].concat());
}

#[tokio::test]
async fn an_impossible_length_is_an_error() {
    let mut stream = tapped(b"H\0\0\0\x03", 5, &Tap::default());
    let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}
