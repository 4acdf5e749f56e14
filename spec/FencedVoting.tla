---------------------------- MODULE FencedVoting ----------------------------
(***************************************************************************)
(* WHAT is promised, for one identity, and nothing of how.                 *)
(*                                                                         *)
(* One chain of votes grows in a durable place, and only what stands on it *)
(* is ever released.  Who votes, how often a machine crashes and which     *)
(* messages are lost cannot be said here: that is FencedTower, which       *)
(* refines this module.                                                    *)
(*                                                                         *)
(* A tower is written as the votes that it was made of, oldest first.  So  *)
(* "one chain of legal tower steps" reads: one tower is a prefix of the    *)
(* other.  Which votes the lockouts allow on top of a tower is decided by  *)
(* other rules, for one tower at a time; here every later slot will do.    *)
(***************************************************************************)
EXTENDS Naturals, Sequences

CONSTANTS
  Slots,       \* The slots that can be voted for, as numbers.
  BlockSlots,  \* The slots in which the identity may produce a block.
  Producers    \* Everything that may produce one: one life of one machine.

VARIABLES
  chain,       \* The tower that is durable.
  released,    \* Every tower whose newest vote was ever released.
  produced     \* Every block that was ever produced: its slot and its producer.

what == <<chain, released, produced>>

Last(tower) == IF tower = <<>> THEN 0 ELSE tower[Len(tower)]

IsPrefix(a, b) == Len(a) <= Len(b) /\ SubSeq(b, 1, Len(a)) = a

\* Neither of two towers takes a step that the other one did not take.
OneChain(a, b) == IsPrefix(a, b) \/ IsPrefix(b, a)

Init == chain = <<>> /\ released = {} /\ produced = {}

\* The durable tower grows by one vote for a later slot.
Extend == \E s \in Slots : /\ s > Last(chain)
                           /\ chain' = Append(chain, s)
                           /\ UNCHANGED <<released, produced>>

\* A vote that stands on the durable chain leaves the machine, now or long after it got there.
Release == \E k \in 1..Len(chain) : /\ released' = released \cup {SubSeq(chain, 1, k)}
                                    /\ UNCHANGED <<chain, produced>>

\* A block is produced for a slot that has none.
Produce == \E s \in BlockSlots, p \in Producers :
             /\ \A block \in produced : block.slot /= s
             /\ produced' = produced \cup {[slot |-> s, by |-> p]}
             /\ UNCHANGED <<chain, released>>

Next == Extend \/ Release \/ Produce

Spec == Init /\ [][Next]_what

(* The promises that can be said at this height.  The ids are those of docs/safety.md. *)

\* S1: all votes ever released lie on one chain of tower steps.
NoConflictingRelease == \A a, b \in released : OneChain(a, b)

\* S2: a vote is released only when the tower that contains it is durable.
DurableBeforeRelease == \A tower \in released : IsPrefix(tower, chain)

\* S4: the durable tower only moves forward.
MonotoneTower == [][IsPrefix(chain, chain')]_chain

\* S7: at most one block for a slot, whoever produces it.
OneBlockPerSlot == \A a, b \in produced : a.slot = b.slot => a = b
=============================================================================
