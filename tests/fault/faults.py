"""The catalogue: every fault by name, and where it makes voting stop, why that is right."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CATALOGUE", "Fault"]


@dataclass(frozen=True, slots=True)
class Fault:
    """`what` is done. `stops` says why no vote may leave meanwhile; empty where voting goes on, or another machine votes."""

    what: str
    stops: str = ""


UNSTORED = "no vote leaves before its tower is stored, and there is nobody to store it"

CATALOGUE = {
    "kill": Fault("the owner is killed; the spare takes over"),
    "freeze 1 s": Fault("the owner stands still for a second", "a process that stands still does nothing"),
    "freeze 5 s": Fault(
        "the owner stands still for 4.5 seconds, less than a vote may wait", "a process that stands still does nothing"
    ),
    "freeze, taken over": Fault("the owner stands still; the spare takes over; the owner goes on and finds the fence lost"),
    "freeze 60 s, taken over": Fault("the same for a minute"),
    "member killed": Fault("a member of etcd that follows is killed, and started again"),
    "leader killed": Fault("the member that leads is killed, and started again", "until another member leads nothing is stored"),
    "member frozen": Fault("a member that follows stands still for three seconds"),
    "leader frozen": Fault(
        "the member that leads stands still for three seconds", "until another member leads nothing is stored"
    ),
    "two members killed": Fault("most members are gone for longer than a vote may wait; the owner ends", UNSTORED),
    "link cut": Fault("the owner's connections to the member in use are reset, new ones too, for three seconds"),
    "all links cut": Fault("the same for all members, two seconds", UNSTORED),
    "link hole": Fault("nothing passes between owner and the member in use, for three seconds; then it arrives late"),
    "all links hole": Fault("the same for all members, three seconds", UNSTORED),
    "link deaf": Fault("what the owner says arrives seconds late; what the members say arrives"),
    "link mute": Fault("every answer of the members is swallowed for two seconds; the writes take effect", UNSTORED),
    "link slow": Fault("each packet of the owner waits 100 ms, both ways"),
    "link double": Fault("packets come twice; TLS refuses what comes, and the connection breaks"),
    "link torn": Fault("connections break in the middle of a frame"),
    "cut off, taken over": Fault(
        "nothing passes between owner and etcd; the spare takes over; the owner's write arrives after that"
    ),
    "cut off, claimed by one that dies": Fault(
        "nothing passes between owner and etcd; another claims and dies; the owner's write arrives next, on an unchanged tower"
    ),
    "leader cut off": Fault(
        "the leader and the other members do not hear each other; clients reach all",
        "until another member leads nothing is stored",
    ),
    "leader deaf to peers": Fault("the leader hears no other member; they hear it"),
    "two members apart": Fault("two followers do not hear each other; both hear the leader"),
    "members all apart": Fault("no member hears another, two seconds", UNSTORED),
    "disk full, leader": Fault("the disk of the member that leads is full; it ends"),
    "disk read-only, member": Fault("a member is started on a disk that became read-only; it does not come up"),
    "quota alarm": Fault("etcd's disk quota is used up; the owner ends", "etcd refuses every write until its alarm is disarmed"),
    "compaction": Fault("the history is compacted up to now while votes are stored"),
    "defragmentation": Fault("each member is defragmented while votes are stored; it answers nothing meanwhile"),
    "clock ahead": Fault("the owner's wall clock jumps ahead by an hour"),
    "clock back": Fault("the owner's wall clock jumps back by two hours"),
    "clock ahead, take-over": Fault("the spare's clock is a day ahead, and it takes over"),
    "certificate expired": Fault(
        "the owner's certificate runs out; then its connections break; it ends, and goes on with a new one", UNSTORED
    ),
    "certificate revoked": Fault("the owner's certificate is revoked; then its connections break; it ends", UNSTORED),
    "old backup of a member": Fault("a member is started on its data of some time ago"),
    "name moves": Fault("the name of etcd leads to another address; the old one refuses"),
    "no file handles": Fault("the owner can open no file and no socket, and its connections break, two seconds", UNSTORED),
    "no file handles, member": Fault("the member in use can open no file and no socket, and its clients are cut"),
    "no memory": Fault("the owner gets no more memory; if it does not end, it is killed; the spare takes over"),
    "legacy takes over": Fault("a validator of the older kind claims on the same keys and votes; the owner ends"),
    "taken from legacy": Fault("the identity is taken back from the older validator, which ends at its next write"),
    "two primaries": Fault("two machines start with the same identity at the same moment"),
    "ten claims": Fault("ten spares are told to take over at the same moment"),
    "set-identity from both": Fault("two machines take the identity from each other without pause"),
    "late copies": Fault("half of all writes are sent again up to 1.5 s later, over other connections, across take-overs"),
    "power cut": Fault("the machine of a file store loses power: every byte and name that was not flushed is gone"),
    "ledger full": Fault("the disk of the file store is full; the owner ends", UNSTORED),
    "ledger read-only": Fault("the file store becomes read-only; the owner ends", UNSTORED),
}
