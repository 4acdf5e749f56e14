----------------------------- MODULE FencedTower -----------------------------
(***************************************************************************)
(* HOW it is kept: machines, a store, and a network between them.          *)
(*                                                                         *)
(* One identity.  Its machines look, claim and write; a request once sent  *)
(* may arrive at the store now, later, several times or never, also after  *)
(* its sender died; an answer may be late or lost; a machine may stop at   *)
(* any step and begin a new life that knows only what the store tells it.  *)
(* A validator of the older kind may work on the same keys.                *)
(*                                                                         *)
(* The store does one request at a time, whole (etcd's transaction, a lock *)
(* on a directory), and keeps what it took.  That is trusted, and so is    *)
(* that 8 random bytes are not drawn twice.                                *)
(*                                                                         *)
(* Names follow tower/events.py and docs/safety.md.  What happens in one   *)
(* machine without an effect outside is one action with what follows: to   *)
(* crash between an answer and the release is to crash before the answer.  *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
  Lives,       \* Numbers for the claims that may ever be sent; each is a life of a machine.
  Instances,   \* Machines that run this product.
  Legacy,      \* Machines that run a validator of the older kind on the same keys.
  Slots,       \* The slots that can be voted for; which fork a slot is on is the voter's business.
  BlockSlots   \* The slots in which the identity leads.

\* The guards.  As named here the protocol is safe; a model that must fail takes one of them away.
CONSTANTS
  InstanceCheck,        \* What a write compares of the instance key: "revision", "value" or "none".
  RandomInstance,       \* The instance's bytes are random; else they are the machine's clock.
  CompareTower,         \* A write compares the tower's revision with the one that was seen last.
  AtomicClaim,          \* Compare, put and read are one transaction; else read, put, read.
  CommitBeforeRelease,  \* A vote waits for its store; else it leaves while the write is under way.
  HoldUnknown,          \* A vote with an unknown outcome stays here; else it is taken for stored.
  SettleBeforeDeciding, \* Nothing new is decided while an outcome is unknown.
  FencedBlocks,         \* A block needs a reservation under the fence; else the belief to be the owner.
  CompareBlocks,        \* A reservation compares the revision of the one before.
  KeepTower             \* A tower is kept for ever; else it is swept after a time.

CONSTANTS
  DigestRevision        \* The tower's revision is its content (the file store); else a number (etcd).

VARIABLES
  store,     \* The keys of the identity in the store, and the store's own revision.
  node,      \* What each machine knows and waits for; all of it is lost when it stops.
  sent,      \* Every request ever sent.  None is ever taken out: it may still arrive, or arrive again.
  answers,   \* The store's answers that somebody still waits for.
  claims,    \* How many claims were ever sent: names the lives, and is where random bytes come from.
  clock,     \* A clock in milliseconds, equal on all machines; moves only where instances are named by it.
  released,  \* Every tower whose newest vote was released.                      (seen by the cluster)
  produced,  \* Every block that was produced: its slot, and the life that did.  (seen by the cluster)
  durable,   \* Every tower that the store ever held.                            (for the promises only)
  late       \* Every write that committed after somebody else had claimed.      (for the promises only)

vars == <<store, node, sent, answers, claims, clock, released, produced, durable, late>>

Nodes == Instances \cup Legacy

States == {"standby",     \* no life that touches the store: a spare, a machine that is off, a life that ended
           "looking",     \* both keys were read, without effect on them
           "claiming",    \* the claim is under way
           "loading",     \* the instance was put; tower and revision are still to be read (never with AtomicClaim)
           "ready",       \* the fence is held as far as this machine knows, and nothing is in flight
           "persisting",  \* one vote is decided, and its tower under way to the store
           "unresolved"}  \* the store did not say whether it took the tower

Voting == {"ready", "persisting", "unresolved"}

Last(tower) == IF tower = <<>> THEN 0 ELSE tower[Len(tower)]
IsPrefix(a, b) == Len(a) <= Len(b) /\ SubSeq(b, 1, Len(a)) = a
OneChain(a, b) == IsPrefix(a, b) \/ IsPrefix(b, a)
WellFormed(tower) == \A k \in 1..(Len(tower) - 1) : tower[k] < tower[k + 1]

\* The revision of a tower that is not there.
Absent == IF DigestRevision THEN <<>> ELSE 0

\* What a machine knows that has no life: nothing.
Nothing == [state |-> "standby",
            claim |-> 0,         \* which claim this life is; 0 before it has sent one
            seen |-> 0,          \* the instance's revision at the look
            fence |-> 0,         \* the revision at which our claim was put
            value |-> 0,         \* the bytes that our claim put
            tower |-> <<>>,      \* the newest tower that is known to be durable
            revision |-> Absent, \* its revision in the store
            pending |-> <<>>,    \* the tower that is under way
            mark |-> 0,          \* the newest slot that is known to be reserved
            markRevision |-> 0,  \* the revision of that reservation in the store
            reserving |-> 0]     \* the slot whose reservation is under way, or 0

Init ==
  /\ store = [revision |-> 0,
              instance |-> [revision |-> 0, value |-> 0, claim |-> 0],
              tower |-> [revision |-> 0, votes |-> <<>>],
              blocks |-> [revision |-> 0, mark |-> 0]]
  /\ node = [n \in Nodes |-> Nothing]
  /\ sent = {} /\ answers = {} /\ claims = 0 /\ clock = 0
  /\ released = {} /\ produced = {} /\ durable = {<<>>} /\ late = {}

-----------------------------------------------------------------------------
(* Requests.  Equal knowledge makes equal requests, so to repeat one is to send the very same again. *)

ClaimRequest(n) == [type |-> "claim", node |-> n, claim |-> node[n].claim, value |-> node[n].value,
                    seen |-> node[n].seen]

StoreRequest(n) == [type |-> "store", node |-> n, claim |-> node[n].claim, value |-> node[n].value,
                    fence |-> node[n].fence, expected |-> node[n].revision, votes |-> node[n].pending]

ReserveRequest(n) == [type |-> "reserve", node |-> n, claim |-> node[n].claim, value |-> node[n].value,
                      fence |-> node[n].fence, expected |-> node[n].markRevision, slot |-> node[n].reserving]

\* Somebody still waits for the answer to this request.
Awaited(m) ==
  /\ node[m.node].claim = m.claim
  /\ CASE m.type = "claim" -> node[m.node].state = "claiming"
       [] m.type = "store" -> node[m.node].state \in {"persisting", "unresolved"} /\ StoreRequest(m.node) = m
       [] m.type = "reserve" -> node[m.node].reserving /= 0 /\ ReserveRequest(m.node) = m

\* An older validator sends each request once and dies of the first error; so does a claim that is not one transaction.
Once(m) == m.node \in Legacy \/ (m.type = "claim" /\ ~AtomicClaim)

\* The request was used up, if it is of the kind that is sent once.
Arrived(m) == sent' = IF Once(m) THEN sent \ {m} ELSE sent

\* The store answers; nobody hears an answer that nobody waits for.
Answer(m, outcome) == answers' = IF Awaited(m) THEN answers \cup {[to |-> m, what |-> outcome]} ELSE answers

TowerRevision == IF DigestRevision THEN store.tower.votes ELSE store.tower.revision

-----------------------------------------------------------------------------
(* A machine's life: look, claim, load. *)

\* The machine's life ends, and with it all that it knew.  What it sent is on its way all the same.
End(n) ==
  /\ node' = [node EXCEPT ![n] = Nothing]
  /\ answers' = {a \in answers : a.to.node /= n}
  /\ UNCHANGED <<store, sent, claims, clock, released, produced, durable, late>>

\* Read both keys without effect on them.
Look(n) ==
  /\ n \in Instances /\ node[n].state = "standby"
  /\ node' = [node EXCEPT ![n].state = "looking", ![n].seen = store.instance.revision]
  /\ UNCHANGED <<store, sent, answers, claims, clock, released, produced, durable, late>>

\* Send a claim with fresh bytes.  An older validator claims without a look.
Claim(n) ==
  /\ node[n].state = IF n \in Legacy THEN "standby" ELSE "looking"
  /\ claims + 1 \in Lives
  /\ claims' = claims + 1
  /\ LET bytes == IF RandomInstance THEN claims + 1 ELSE clock
         known == [node[n] EXCEPT !.state = "claiming", !.claim = claims + 1, !.value = bytes]
     IN /\ node' = [node EXCEPT ![n] = known]
        /\ sent' = sent \cup {[type |-> "claim", node |-> n, claim |-> known.claim, value |-> bytes,
                               seen |-> known.seen]}
  /\ UNCHANGED <<store, answers, clock, released, produced, durable, late>>

\* What the answer to a claim brings along.
Brought(instance) ==
  [outcome |-> "claimed", fence |-> instance.revision, tower |-> store.tower.votes, revision |-> TowerRevision,
   mark |-> store.blocks.mark, markRevision |-> store.blocks.revision]

\* What the store does with a claim: compare, put and read in one.  Without AtomicClaim, and for an older validator: put.
TakeClaim(m) ==
  /\ m.type = "claim"
  /\ Arrived(m)
  /\ IF Once(m) \/ store.instance.revision = m.seen
     THEN LET instance == [revision |-> store.revision + 1, value |-> m.value, claim |-> m.claim]
          IN /\ store' = [store EXCEPT !.revision = @ + 1, !.instance = instance]
             /\ Answer(m, Brought(instance))
     ELSE /\ UNCHANGED store
          /\ IF store.instance.value = m.value  \* an earlier copy of it had won
             THEN Answer(m, Brought(store.instance))
             ELSE Answer(m, [outcome |-> "refused"])
  /\ UNCHANGED <<node, claims, clock, released, produced, durable, late>>

\* The claim succeeded: the fence is held and the tower is loaded, both as of the same moment.
Claimed(n) ==
  /\ node[n].state = "claiming"
  /\ \E a \in answers :
       /\ a.to.node = n /\ a.to.type = "claim" /\ a.what.outcome = "claimed"
       /\ IF Once(a.to)
          THEN node' = [node EXCEPT ![n].state = "loading"]
          ELSE node' = [node EXCEPT ![n].state = "ready", ![n].fence = a.what.fence, ![n].tower = a.what.tower,
                                    ![n].revision = a.what.revision, ![n].mark = a.what.mark,
                                    ![n].markRevision = a.what.markRevision]
       /\ answers' = {b \in answers : b.to.node /= n}
  /\ UNCHANGED <<store, sent, claims, clock, released, produced, durable, late>>

\* A second transaction reads what the claim's put came to; an older validator asks whether its bytes are still there.
Load(n) ==
  /\ node[n].state = "loading"
  /\ n \in Legacy => store.instance.value = node[n].value
  /\ node' = [node EXCEPT ![n].state = "ready", ![n].fence = store.instance.revision,
                          ![n].tower = store.tower.votes, ![n].revision = TowerRevision,
                          ![n].mark = store.blocks.mark, ![n].markRevision = store.blocks.revision]
  /\ UNCHANGED <<store, sent, answers, claims, clock, released, produced, durable, late>>

-----------------------------------------------------------------------------
(* One vote: persist, then release. *)

\* The tower of a decided vote goes to the store.
Send(n, tower) ==
  /\ node' = [node EXCEPT ![n].state = "persisting", ![n].pending = tower]
  /\ sent' = sent \cup {[StoreRequest(n) EXCEPT !.votes = tower]}
  /\ answers' = {a \in answers : ~(a.to.node = n /\ a.to.type = "store")}
  /\ released' = IF CommitBeforeRelease THEN released ELSE released \cup {tower}
  /\ UNCHANGED <<store, claims, clock, produced, durable, late>>

\* Decide a vote for a later slot, on top of what is durable, and persist it.
Persist(n, s) ==
  /\ node[n].state \in IF SettleBeforeDeciding THEN {"ready"} ELSE {"ready", "unresolved"}
  /\ s > Last(node[n].tower)
  /\ Send(n, Append(node[n].tower, s))

\* Send the last vote once more, with a younger blockhash: the same promise, through the same door.
Refresh(n) ==
  /\ node[n].state = "ready" /\ node[n].tower /= <<>>
  /\ Send(n, node[n].tower)

\* The instance key is still ours, by what the writer of this request compares.
FenceHolds(m) ==
  LET check == IF m.node \in Legacy THEN "value" ELSE InstanceCheck
  IN CASE check = "revision" -> store.instance.revision = m.fence
       [] check = "value" -> store.instance.value = m.value
       [] check = "none" -> TRUE

\* The writer is not the one who claimed last.
TooLate(m) == IF store.instance.claim = m.claim THEN {} ELSE {m.type}

\* What the store does with a write: both comparisons, then the put.
TakeStore(m) ==
  /\ m.type = "store"
  /\ Arrived(m)
  /\ IF FenceHolds(m) /\ (m.node \in Legacy \/ ~CompareTower \/ TowerRevision = m.expected)
     THEN /\ store' = [store EXCEPT !.revision = @ + 1,
                                    !.tower = [revision |-> store.revision + 1, votes |-> m.votes]]
          /\ durable' = durable \cup {m.votes}
          /\ late' = late \cup TooLate(m)
          /\ Answer(m, [outcome |-> "committed",
                        revision |-> IF DigestRevision THEN m.votes ELSE store.revision + 1])
     ELSE /\ UNCHANGED <<store, durable, late>>
          /\ IF m.node \notin Legacy /\ FenceHolds(m) /\ store.tower.votes = m.votes  \* an earlier copy had won
             THEN Answer(m, [outcome |-> "committed", revision |-> TowerRevision])
             ELSE Answer(m, [outcome |-> "refused"])
  /\ UNCHANGED <<node, claims, clock, released, produced>>

\* The store says that the tower is durable: the vote is released.  The only way in which a vote leaves.
Committed(n) ==
  /\ node[n].state \in {"persisting", "unresolved"}
  /\ \E a \in answers :
       /\ a.to = StoreRequest(n) /\ a.what.outcome = "committed"
       /\ node' = [node EXCEPT ![n].state = "ready", ![n].tower = node[n].pending, ![n].revision = a.what.revision,
                               ![n].pending = <<>>]
       /\ released' = released \cup {node[n].pending}
       /\ answers' = {b \in answers : ~(b.to.node = n /\ b.to.type = "store")}
  /\ UNCHANGED <<store, sent, claims, clock, produced, durable, late>>

\* No answer came in time, so nothing is known.  An older validator ends here (DeadlinePassed).
Unknown(n) ==
  /\ n \in Instances /\ node[n].state = "persisting"
  /\ node' = [node EXCEPT ![n].state = "unresolved"]
  /\ released' = IF HoldUnknown THEN released ELSE released \cup {node[n].pending}
  /\ UNCHANGED <<store, sent, answers, claims, clock, produced, durable, late>>

\* Repeat the write, unchanged.  What may arrive again is in `sent` already, so nothing changes here.
Settle(n) == node[n].state = "unresolved" /\ StoreRequest(n) \in sent /\ UNCHANGED vars

-----------------------------------------------------------------------------
(* Blocks, under the same fence: a slot is reserved before it is led. *)

\* Ask for a slot above all that were reserved.
Reserve(n, s) ==
  /\ n \in Instances /\ node[n].state \in Voting
  /\ FencedBlocks /\ node[n].reserving = 0 /\ s > node[n].mark
  /\ node' = [node EXCEPT ![n].reserving = s]
  /\ sent' = sent \cup {[ReserveRequest(n) EXCEPT !.slot = s]}
  /\ UNCHANGED <<store, answers, claims, clock, released, produced, durable, late>>

\* What the store does with a reservation: both comparisons, then the put.
TakeReservation(m) ==
  /\ m.type = "reserve"
  /\ Arrived(m)
  /\ IF FenceHolds(m) /\ (~CompareBlocks \/ store.blocks.revision = m.expected)
     THEN /\ store' = [store EXCEPT !.revision = @ + 1,
                                    !.blocks = [revision |-> store.revision + 1, mark |-> m.slot]]
          /\ late' = late \cup TooLate(m)
          /\ Answer(m, [outcome |-> "committed", revision |-> store.revision + 1])
     ELSE /\ UNCHANGED <<store, late>>
          /\ IF FenceHolds(m) /\ store.blocks.mark = m.slot
             THEN Answer(m, [outcome |-> "committed", revision |-> store.blocks.revision])
             ELSE Answer(m, [outcome |-> "refused"])
  /\ UNCHANGED <<node, claims, clock, released, produced, durable>>

\* The slot is ours: the block is produced.
Produce(n) ==
  /\ node[n].reserving /= 0
  /\ \E a \in answers :
       /\ a.to = ReserveRequest(n) /\ a.what.outcome = "committed"
       /\ node' = [node EXCEPT ![n].mark = node[n].reserving, ![n].markRevision = a.what.revision, ![n].reserving = 0]
       /\ produced' = produced \cup {[slot |-> node[n].reserving, by |-> node[n].claim]}
       /\ answers' = {b \in answers : ~(b.to.node = n /\ b.to.type = "reserve")}
  /\ UNCHANGED <<store, sent, claims, clock, released, durable, late>>

\* A block by belief alone (only without FencedBlocks).
ProduceUnfenced(n, s) ==
  /\ ~FencedBlocks
  /\ n \in Instances /\ node[n].state \in Voting /\ s > node[n].mark
  /\ node' = [node EXCEPT ![n].mark = s]
  /\ produced' = produced \cup {[slot |-> s, by |-> node[n].claim]}
  /\ UNCHANGED <<store, sent, answers, claims, clock, released, durable, late>>

-----------------------------------------------------------------------------
(* The ends of a life.  Each is its own action, because each has its own cause; what is left is the same. *)

\* The process dies or is killed; also a machine that is frozen and never thawed.
Crash(n) == node[n].state /= "standby" /\ End(n)

\* By order: set-identity away from it, demote, exit.  Or by itself, for what it found: a tower that it cannot use, a missing key.
Resign(n) == node[n].state /= "standby" /\ End(n)

\* The watch sees that somebody else claimed.
FenceLost(n) == node[n].state \in Voting /\ store.instance.revision /= node[n].fence /\ End(n)

\* The time is over that a vote may wait for its store.
DeadlinePassed(n) == node[n].state \in {"claiming", "persisting", "unresolved"} /\ End(n)

\* The store refused.  A refused claim means: look again, which is a new life here.
Refused(n) ==
  /\ \E a \in answers : a.to.node = n /\ a.what.outcome = "refused"
  /\ End(n)

-----------------------------------------------------------------------------
(* The world around. *)

\* The clock goes on (only where instances are named by it).
Tick == /\ ~RandomInstance
        /\ clock' = clock + 1
        /\ UNCHANGED <<store, node, sent, answers, claims, released, produced, durable, late>>

\* Somebody removes the tower because it is old (only without KeepTower).
Sweep == /\ ~KeepTower
         /\ store.tower.votes /= <<>>
         /\ store' = [store EXCEPT !.revision = @ + 1, !.tower = [revision |-> 0, votes |-> <<>>]]
         /\ UNCHANGED <<node, sent, answers, claims, clock, released, produced, durable, late>>

\* A claim reaches the store, soon or long after it was sent.
ClaimArrives == \E m \in sent : TakeClaim(m)

\* A copy of a write reaches the store: the first one or a later one, of a life that waits, or of one that has ended.
StoreArrives == \E m \in sent : TakeStore(m)

\* A copy of a reservation reaches the store.
ReserveArrives == \E m \in sent : TakeReservation(m)

Next ==
  \/ \E n \in Nodes :
       \/ Look(n) \/ Claim(n) \/ Claimed(n) \/ Load(n)
       \/ Refresh(n) \/ Committed(n) \/ Unknown(n) \/ Settle(n)
       \/ Produce(n)
       \/ Crash(n) \/ Resign(n) \/ FenceLost(n) \/ DeadlinePassed(n) \/ Refused(n)
       \/ \E s \in Slots : Persist(n, s)
       \/ \E s \in BlockSlots : Reserve(n, s) \/ ProduceUnfenced(n, s)
  \/ ClaimArrives \/ StoreArrives \/ ReserveArrives
  \/ Tick \/ Sweep

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
(* The promises of docs/safety.md. *)

TypeOK ==
  /\ \A n \in Nodes : node[n].state \in States
  /\ \A m \in sent : m.type \in {"claim", "store", "reserve"} /\ m.node \in Nodes /\ m.claim \in 1..claims
  /\ \A a \in answers : a.to.node \in Nodes /\ a.what.outcome \in {"claimed", "committed", "refused"}
  /\ store.instance.revision \in 0..store.revision /\ store.instance.claim \in 0..claims
  /\ store.tower.revision \in 0..store.revision
  /\ store.blocks.revision \in 0..store.revision
  /\ late \subseteq {"store", "reserve"}

\* S1: all votes ever released for the identity, by any machine, lie on one chain of tower steps.
NoConflictingRelease == \A a, b \in released : OneChain(a, b)

\* S2: a vote is released only after the tower that contains it is durable.
DurableBeforeRelease == released \subseteq durable

\* S3: after another life has claimed, no write of the old one commits.
FencedWrites == late = {}

\* S4: the stored tower only moves forward.
MonotoneTower == [][IsPrefix(store.tower.votes, store'.tower.votes)]_store

\* S5: every tower that is stored, loaded or about to be stored is well formed.
WellFormedTower ==
  /\ WellFormed(store.tower.votes)
  /\ \A n \in Nodes : WellFormed(node[n].tower) /\ WellFormed(node[n].pending)

\* S6: of the writes of one life whose outcome it does not know there is at most one.
NoDecisionWhileUnresolved ==
  \A n \in Nodes : node[n].state \in Voting =>
    Cardinality({m \in sent : /\ m.type = "store" /\ m.claim = node[n].claim
                              /\ m.expected = node[n].revision /\ m.votes /= node[n].tower}) <= 1

\* S7: at most one life produces a block for a slot.
OneBlockPerSlot == \A a, b \in produced : a.slot = b.slot => a = b

\* The chain that FencedVoting speaks of is the stored tower.
What == INSTANCE FencedVoting WITH chain <- store.tower.votes, Producers <- Lives

\* This module does what FencedVoting says, and nothing else that can be seen from there.
Refines == What!Spec
=============================================================================
