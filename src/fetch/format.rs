//! Whether the first bytes are those of a program that this machine can run.

use super::failure::Failure;

/// So many bytes are enough to tell: the file header of ELF up to `e_machine` (elf(5)).
pub(super) const HEAD: usize = 20;

const ELF: &[u8] = b"\x7fELF";

/// Compares the head of a new binary with that of the one in place.
///
/// Only what is surely wrong is refused: where the one in place is no ELF file, the check run decides.
pub(super) fn check(new: &[u8], present: &[u8]) -> Result<(), Failure> {
    if !present.starts_with(ELF) {
        return Ok(());
    }
    if !new.starts_with(ELF) {
        let text = new.trim_ascii_start().to_ascii_lowercase();
        let what = match text.as_slice() {
            [] => "it is empty",
            text if text.starts_with(b"<!doctype") || text.starts_with(b"<html") => {
                "it is an HTML page"
            }
            text if text.starts_with(b"<") => "it is markup",
            text if text.starts_with(b"\x1f\x8b") || text.starts_with(b"PK") => "it is an archive",
            _ => "it is no ELF file",
        };
        return Err(Failure::NoProgram(what));
    }
    match (Machine::of(new), Machine::of(present)) {
        (Some(new), Some(present)) if new != present => {
            Err(Failure::OtherMachine { new: new.0, present: present.0 })
        }
        (None, _) => Err(Failure::NoProgram("it is an ELF file without a whole header")),
        _ => Ok(()),
    }
}

/// Class, byte order and `e_machine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Machine((u8, u8, u16));

impl Machine {
    fn of(head: &[u8]) -> Option<Self> {
        let (class, order) = (*head.get(4)?, *head.get(5)?);
        let machine = [*head.get(18)?, *head.get(19)?];
        // ELFDATA2MSB is 2.
        let big = order == 2;
        let machine = if big { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
        Some(Self((class, order, machine)))
    }
}

/// The name that people know a machine by.
pub(super) fn name((class, _, machine): (u8, u8, u16)) -> String {
    let name = match machine {
        3 => "x86",
        8 => "MIPS",
        20 => "PowerPC",
        21 => "PowerPC64",
        22 => "S390",
        40 => "ARM",
        62 => "x86-64",
        183 => "AArch64",
        243 => "RISC-V",
        258 => "LoongArch",
        _ => "machine",
    };
    let bits = if class == 1 { 32 } else { 64 };
    format!("{name} ({machine}, {bits} bits)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(class: u8, order: u8, machine: [u8; 2]) -> Vec<u8> {
        let mut head = b"\x7fELF\x00\x00\x01\0\0\0\0\0\0\0\0\0\x03\0\0\0".to_vec();
        (head[4], head[5]) = (class, order);
        head[18..].copy_from_slice(&machine);
        head
    }

    #[test]
    fn only_a_program_for_this_machine_passes() {
        let present = elf(2, 1, [62, 0]);
        assert!(check(&elf(2, 1, [62, 0]), &present).is_ok());
        for (new, why) in [
            (elf(2, 1, [183, 0]), "AArch64"),
            (elf(1, 1, [62, 0]), "32 bits"),
            (elf(2, 2, [0, 21]), "PowerPC64"),
            (b"<!DOCTYPE html><title>404</title>".to_vec(), "HTML"),
            (b"\n <HTML>".to_vec(), "HTML"),
            (b"<Error><Code>AccessDenied".to_vec(), "markup"),
            (b"\x1f\x8b\x08".to_vec(), "archive"),
            (b"#!/bin/sh\n".to_vec(), "no ELF"),
            (b"\x7fELF\x02\x01".to_vec(), "whole header"),
            (Vec::new(), "empty"),
        ] {
            let failure = check(&new, &present).unwrap_err().to_string();
            assert!(failure.contains(why), "{failure}");
        }
    }

    #[test]
    fn what_is_no_elf_file_itself_compares_with_nothing() {
        assert!(check(b"anything", b"#!/bin/sh").is_ok());
    }
}
