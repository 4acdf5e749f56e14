----------------------------- MODULE FencedTrace -----------------------------
(***************************************************************************)
(* A trace of real processes, as a behaviour of FencedTower.               *)
(*                                                                         *)
(* The entries of the trace are taken one after another, and each must be  *)
(* the action of its name, done by the machine on which that life runs,    *)
(* with the facts that were written.  Between them happens what no process *)
(* can see: a claim or a write arrives at the store, or a look is answered.*)
(* Whatever step is taken is a step of FencedTower, or it forgets what can *)
(* have no effect any more (Forget).                                       *)
(*                                                                         *)
(* The store counts its revisions as it likes; here they are 1, 2, 3 ...   *)
(* Which is which is found on the way and then holds for good: so a fence, *)
(* or a revision, that does not fit to all others is not explained.        *)
(*                                                                         *)
(* The trace is explained if some behaviour takes its last entry.          *)
(***************************************************************************)
EXTENDS FencedTower, TLC

CONSTANTS
  Trace,    \* The entries, in the order in which they were written: an action, a machine, and facts.
  Start,    \* What the store held before the first entry, and how it counted that.
  Ordered   \* One number counts all revisions of the store (etcd); else a tower's is its content (the file store).

VARIABLES
  at,       \* How many entries are explained.
  looking,  \* For each machine the entry whose look is under way, or 0.
  fences,   \* For each revision at which somebody claimed, how the store counted it.
  towers,   \* For each revision at which a tower was put, how the store counted it, and the digest of the record.
  records   \* The digest of the record in each write, by who sent it and what it expects.

\* The trace.  (As a definition without variables it is worked out once and not at every use, as what a model puts in is.)
Entries == Trace

progress == <<at, looking, fences, towers, records>>

\* Nobody was told yet how the store counted this revision.
Untold == 0 - 1

Numbers(known) == [r \in DOMAIN known |-> known[r].number]

\* The store may have counted revision r as v: it never counts backwards, and nothing twice.
\* (Said with a set and not with "for all", which TLC would take apart one by one in the middle of an action.)
InOrder(known, r, v) ==
  {q \in DOMAIN known : ~(\/ known[q] = Untold
                          \/ q < r /\ known[q] < v
                          \/ q = r /\ known[q] = v
                          \/ q > r /\ known[q] > v)} = {}

\* Revisions that are contents have no order; no content comes twice.
Distinct(known, r, v) == {q \in DOMAIN known : known[q] /= Untold /\ ((q = r) /= (known[q] = v))} = {}

\* Somebody was told that the claim at revision r is counted as v; where it is known, it must be the same.
FenceIs(r, v) ==
  /\ r \in DOMAIN fences
  /\ InOrder(fences, r, v)
  /\ Ordered => InOrder(Numbers(towers), r, v)
  /\ fences' = [fences EXCEPT ![r] = v]

\* The same for a tower.  After FenceIs or with fences' = fences.
TowerIs(r, v) ==
  /\ r \in DOMAIN towers
  /\ IF Ordered THEN InOrder(Numbers(towers), r, v) /\ InOrder(fences', r, v) ELSE Distinct(Numbers(towers), r, v)
  /\ towers' = [towers EXCEPT ![r].number = v]

-----------------------------------------------------------------------------
(* The beginning. *)

TraceInit ==
  /\ store = [revision |-> Start.revision,
              instance |-> [revision |-> Start.instance, value |-> 0, claim |-> 0],
              tower |-> [revision |-> Start.tower, votes |-> Start.votes],
              blocks |-> [revision |-> 0, mark |-> 0]]
  /\ node = [n \in Nodes |-> Nothing]
  /\ sent = {} /\ answers = {} /\ claims = 0 /\ clock = 0
  /\ released = {} /\ produced = {} /\ durable = {Start.votes} /\ late = {}
  /\ at = 0
  /\ looking = [n \in Nodes |-> 0]
  /\ fences = (0 :> 0) @@ (Start.instance :> Start.fence)
  /\ towers = (0 :> [number |-> 0, digest |-> ""]) @@ (Start.tower :> [number |-> Start.number, digest |-> Start.digest])
  /\ records = <<>>

-----------------------------------------------------------------------------
(* What no process sees. *)

\* What the look of this machine brought, by its entry, is what is in the store now.
Sees(n) ==
  LET e == Entries[looking[n]]
  IN /\ towers[store.tower.revision].digest = e.digest
     /\ Last(store.tower.votes) = e.last
     /\ fences[store.instance.revision] \in {e.seen, Untold}
     /\ towers[store.tower.revision].number \in {e.revision, Untold}

\* A look is answered: some moment between its beginning and its entry, at which both keys were as it says.
LookAnswered(n) ==
  /\ looking[n] /= 0 /\ node[n].state = "standby" /\ Sees(n)
  /\ Look(n)
  /\ FenceIs(store.instance.revision, Entries[looking[n]].seen)
  /\ TowerIs(store.tower.revision, Entries[looking[n]].revision)
  /\ UNCHANGED <<at, looking, records>>

\* It brings nothing new about the store, so there is no reason to wait for another moment.
Plain(n) ==
  /\ looking[n] /= 0 /\ node[n].state = "standby" /\ Sees(n)
  /\ fences[store.instance.revision] /= Untold /\ towers[store.tower.revision].number /= Untold

\* A claim or a write arrives and is taken.  Copies that change nothing are left out.
Taken ==
  \E m \in sent :
    \/ /\ TakeClaim(m) /\ store' /= store
       /\ fences' = fences @@ (store'.revision :> Untold)
       /\ UNCHANGED <<at, looking, towers, records>>
    \/ /\ TakeStore(m) /\ store' /= store
       /\ towers' = towers @@ (store'.revision :> [number |-> Untold, digest |-> records[<<m.claim, m.expected>>]])
       /\ UNCHANGED <<at, looking, fences, records>>

\* A claim or a write arrives and is refused, and the next entry is that its sender heard so.
TurnedAway ==
  /\ Entries[at + 1].action = "Refused"
  /\ ~\E a \in answers : a.to.node = Entries[at + 1].node /\ a.what.outcome = "refused"
  /\ \E m \in sent :
       /\ m.node = Entries[at + 1].node /\ Awaited(m)
       /\ TakeClaim(m) \/ TakeStore(m)
       /\ store' = store /\ answers' /= answers
  /\ UNCHANGED progress

-----------------------------------------------------------------------------
(* The entries. *)

Fence(n) == fences[node[n].fence]
Revision(n) == towers[node[n].revision].number

\* The claim was heard of under this number, and it came after revision r.
LaterClaim(r, v) == \E q \in DOMAIN fences : q > r /\ FenceIs(q, v)

\* The facts that go with a write that is under way.
SameWrite(n, e) ==
  /\ e.fence = Fence(n) /\ e.expected = Revision(n)
  /\ e.slot = Last(node[n].pending)
  /\ e.digest = records[<<node[n].claim, node[n].revision>>]

\* The facts of a write that is sent, and what it is remembered by.
Sent(n, e) ==
  /\ e.fence = Fence(n) /\ e.expected = Revision(n)
  /\ records' = (<<node[n].claim, node[n].revision>> :> e.digest) @@ records

\* What the vote was decided on: the tower that is stored, or votes that are not in it, or that bind no more.
StandsOn(n, e) ==
  CASE e.base = "stored" -> e.on = Last(node[n].tower)
    [] e.base = "landed" -> e.on > Last(node[n].tower) /\ e.on < e.slot
    [] e.base = "rooted" -> e.on < Last(node[n].tower)

\* What a refusal says of the two revisions that differ.
Differ(n, e) ==
  LET mine == IF node[n].state = "claiming" THEN node[n].seen ELSE node[n].fence
  IN IF e.reason = "fenced"
     THEN e.mine = fences[mine] /\ LaterClaim(mine, e.seen) /\ UNCHANGED towers
     ELSE /\ node[n].state /= "claiming" /\ e.mine = Revision(n)
          /\ UNCHANGED fences
          /\ \E q \in DOMAIN towers :  \* somebody else's tower, put while we held the fence
               /\ q /= node[n].revision /\ towers[q].digest /= records[<<node[n].claim, node[n].revision>>]
               /\ {r \in DOMAIN fences : r > mine /\ r < q} = {}
               /\ TowerIs(q, e.seen)

Known == UNCHANGED <<looking, fences, towers, records>>

Explained ==
  LET e == Entries[at + 1]
      n == e.node
  IN /\ at' = at + 1
     /\ CASE e.action = "LookBegins" ->  \* no action: from here on the look may be answered
               looking' = [looking EXCEPT ![n] = at + 1] /\ UNCHANGED <<vars, fences, towers, records>>
          [] e.action = "Look" ->
               /\ node[n].state = "looking" /\ looking[n] /= 0
               /\ looking' = [looking EXCEPT ![n] = 0]
               /\ UNCHANGED <<vars, fences, towers, records>>
          [] e.action = "Claim" -> Claim(n) /\ e.seen = fences[node[n].seen] /\ Known
          [] e.action = "Claimed" ->
               /\ Claimed(n)
               /\ FenceIs(node'[n].fence, e.fence)
               /\ TowerIs(node'[n].revision, e.revision)
               /\ e.digest = towers[node'[n].revision].digest
               /\ e.last = Last(node'[n].tower)
               /\ UNCHANGED <<looking, records>>
          [] e.action = "Persist" ->
               Persist(n, e.slot) /\ StandsOn(n, e) /\ Sent(n, e) /\ UNCHANGED <<looking, fences, towers>>
          [] e.action = "Refresh" ->
               Refresh(n) /\ e.slot = Last(node[n].tower) /\ Sent(n, e) /\ UNCHANGED <<looking, fences, towers>>
          [] e.action = "Committed" ->
               /\ Committed(n)
               /\ e.fence = Fence(n) /\ e.slot = Last(node[n].pending)
               /\ e.digest = records[<<node[n].claim, node[n].revision>>]
               /\ UNCHANGED <<looking, fences, records>>
               /\ TowerIs(node'[n].revision, e.revision)
          [] e.action = "Unknown" -> Unknown(n) /\ SameWrite(n, e) /\ Known
          [] e.action = "Settle" -> Settle(n) /\ SameWrite(n, e) /\ Known
          [] e.action = "DeadlinePassed" ->
               DeadlinePassed(n) /\ (node[n].state /= "claiming" => SameWrite(n, e)) /\ Known
          [] e.action = "FenceLost" ->
               FenceLost(n) /\ LaterClaim(node[n].fence, e.seen) /\ UNCHANGED <<looking, towers, records>>
          [] e.action = "Refused" -> Refused(n) /\ Differ(n, e) /\ UNCHANGED <<looking, records>>
          [] e.action = "Resign" -> Resign(n) /\ Known
          [] e.action = "Crash" -> Crash(n) /\ Known

-----------------------------------------------------------------------------
(* Forgetting.  A message only ever allows steps, so to take one away allows no step that was not there.  *)
(* Of the towers that were released, the longest speaks for all others as long as they are on its chain,  *)
(* which is asked in every state.                                                                         *)

\* The request may still change the store, or somebody waits for its answer.
Matters(m) ==
  \/ Awaited(m)
  \/ m.type = "claim" /\ m.seen = store.instance.revision
  \/ m.type = "store" /\ m.fence = store.instance.revision /\ m.expected = TowerRevision

Longest(set) == CHOOSE t \in set : \A u \in set : Len(u) <= Len(t)

Idle == {m \in sent : ~Matters(m)}

\* Many states are small rather than few are large: entries are many, and towers grow.
Crowded == Cardinality(released) > 1 \/ Cardinality(Idle) > 8

\* The revisions that somebody knows, waits for, or can be told of; nobody asks for one below all of them any more.
Spoken ==
  {store.tower.revision, store.instance.revision}
  \cup UNION {CASE node[n].state = "standby" -> {}
                [] node[n].state \in Voting -> {node[n].fence, node[n].revision}
                [] OTHER -> {node[n].seen} : n \in Nodes}
  \cup {a.what.revision : a \in {b \in answers : b.what.outcome /= "refused"}}

\* What must be kept of numbers by revision: those from the lowest on that is spoken of, and of the others the last that is
\* known, which no later one may go below.  Contents have no order, so there each is kept: none may come twice.
Kept(numbers) ==
  LET lowest == CHOOSE r \in Spoken : \A q \in Spoken : r <= q
      below == {r \in DOMAIN numbers : r < lowest /\ numbers[r] /= Untold}
  IN IF Ordered
     THEN {r \in DOMAIN numbers : r = 0 \/ r >= lowest \/ (r \in below /\ \A q \in below : q <= r)}
     ELSE DOMAIN numbers

Forget ==
  /\ Crowded
  /\ sent' = sent \ Idle
  /\ released' = IF released = {} THEN {} ELSE {Longest(released)}
  /\ durable' = {t \in durable : t \in released' \/ t = store.tower.votes \/ \E n \in Nodes : t = node[n].pending}
  /\ records' = [k \in {<<m.claim, m.expected>> : m \in {x \in sent' : x.type = "store"}} |-> records[k]]
  /\ fences' = [r \in Kept(fences) |-> fences[r]]
  /\ towers' = [r \in Kept(Numbers(towers)) |-> towers[r]]
  /\ UNCHANGED <<store, node, answers, claims, clock, produced, late, at, looking>>

-----------------------------------------------------------------------------

TraceNext ==
  /\ at < Len(Entries)
  /\ IF Crowded THEN Forget
     ELSE IF \E n \in Nodes : Plain(n) THEN LookAnswered(CHOOSE n \in Nodes : Plain(n))
     ELSE Taken \/ TurnedAway \/ (\E n \in Nodes : LookAnswered(n)) \/ Explained

TraceSpec == TraceInit /\ [][TraceNext]_<<vars, progress>>

\* Every step of a replay is one of FencedTower, or forgets.
StepsOfTheSpecification == [][Next \/ Forget]_vars

-----------------------------------------------------------------------------
(* For whoever reads TLC's output: how far it came, and what is true there of the machine that is next.  *)
(* One worker only.                                                                                      *)

ASSUME TLCSet(1, 0 - 1)

Machine(n) ==
  LET k == node[n]
  IN <<k.state, IF k.seen \in DOMAIN fences THEN fences[k.seen] ELSE Untold, Fence(n), Revision(n), Last(k.tower), Last(k.pending)>>

Furthest ==
  \/ at <= TLCGet(1)
  \/ /\ TLCSet(1, at)
     /\ PrintT(<<"at", at>> \o (IF at = Len(Entries) THEN <<>> ELSE Machine(Entries[at + 1].node)))
=============================================================================
