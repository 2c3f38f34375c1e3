// The queue of one unit: holds its instructions, and each back until its semaphores are there.
//
//   `above_zero` has a bit for each source; `take` takes the ones that the leaving instruction
//   waited for.
module unit_queue #(
  parameter WIDTH = 256,
  parameter DEPTH = 8,
  parameter SOURCES = 1,
  parameter WAIT_LOW = 0  // lowest bit of the instruction's wait mask
) (
  input wire clk,
  input wire rst,
  input wire [WIDTH-1:0] push_data,
  input wire push_vld,
  output wire push_rdy,
  output wire [WIDTH-1:0] pop_data,
  output wire pop_vld,
  input wire pop_rdy,
  output wire filled,  // there is an instruction, whether or not it may leave
  input wire [SOURCES-1:0] above_zero,
  output wire [SOURCES-1:0] take
);
  wire [SOURCES-1:0] waits = pop_data[WAIT_LOW +: SOURCES];
  assign pop_vld = filled & ~|(waits & ~above_zero);
  assign take = pop_vld & pop_rdy ? waits : 0;

  fifo #(.WIDTH(WIDTH), .DEPTH(DEPTH)) queue (
    .clk(clk), .rst(rst),
    .push_data(push_data), .push_vld(push_vld), .push_rdy(push_rdy),
    .pop_data(pop_data), .pop_vld(filled), .pop_rdy(pop_vld & pop_rdy)
  );
endmodule
